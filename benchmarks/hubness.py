"""Correction for hubs, and retrieval by several interests, on real collections: what they change, and what they cost.

python benchmarks/hubness.py              squad_train_sample and scifact
python benchmarks/hubness.py --quick      200 questions of each; writes nothing

What a bank of known questions does to others depends on how the two belong together, so there are several cases. `log`:
known and asked are drawn from the same questions, as from a log. `apart`: nothing in the collection answers a known
question, since half of the paragraphs, drawn by chance, is taken out, and the questions to these are the known ones.
`split`: the known are the split `train`, the asked `test`; in squad_train_sample no paragraph, and not even an
article, answers questions of both: whatever pushes back the answers of known questions brings forward those of the
asked.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from typing import Any

import harness
import numpy as np
from numpy.typing import NDArray

from rag.collection import Collection
from rag.evaluate import Dataset, collection_of, find
from rag.evaluate.diversity import alpha_ndcg, aspect_recall, intra_list_distance
from rag.evaluate.judgements import LabelledQuery, searched
from rag.index.hubness import HubnessBanks, HubnessKind, hub_report
from rag.index.hubness_file import HubnessModel, save_hubness
from rag.operators.post_retrieval import HubnessNorm
from rag.operators.retrieval import Dense, MixtureRetrieve
from rag.types import Hits, Query

K, DEPTH = 100, 10
RESAMPLED = 2000
ITEMS = 2000
KINDS: tuple[tuple[HubnessKind, float], ...] = (
    ("csls", 1.0),
    ("inverted_softmax", 5.0),
    ("inverted_softmax", 20.0),
    ("dual_softmax", 5.0),
    ("dual_softmax", 20.0),
    ("gallery_softmax", 20.0),
)
METRICS = ("R@1", "R@10", "nDCG@10")
Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Case:
    """Known questions as vectors, and asked ones with their candidates, in a collection less the chunks `without`."""

    name: str
    known: NDArray[np.float32]
    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    labels: NDArray[np.bool_]
    relevant: NDArray[np.int64]
    without: NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 questions of each; writes nothing")
    parser.add_argument("--questions", type=int, default=1500, help="asked of each data set, at most")
    options = parser.parse_args()
    asked = 200 if options.quick else options.questions
    lines, gains = [notes()], {}
    rows: list[harness.Row] = []
    squad, train = find("squad_train_sample"), find("squad_train_sample", "train")
    if options.quick:
        squad, train = squad.sample(800), train.sample(800)
    with collection_of(squad, progress=True) as collection:
        for case in squad_cases(collection, squad, train, asked):
            gains[f"squad, {case.name}"] = study(f"squad, {case.name}", case, collection, lines, rows)
        cost(collection, case, lines)
        interests(collection, squad, asked // 3, lines, rows)
    claims = find("scifact")
    with collection_of(claims, progress=True) as collection:
        known, others = labelled(find("scifact", "train")), labelled(claims)
        case = found("split", collection, encoded(collection, known), others[:asked])
        gains["scifact, split"] = study("scifact, split", case, collection, lines, rows)
    if options.quick:
        print("\n".join(lines))
    else:
        harness.write("hubness", "Hubs and several interests", lines, rows, lambda figure: plot(figure, gains))


def notes() -> str:
    return (
        f"{K} candidates of all-MiniLM-L6-v2, put in order by each correction. Figures are differences to the cosine, "
        f"with 95 % intervals of {RESAMPLED} resamples of the questions; `dynamic` corrects only questions whose first "
        "hit is the nearest chunk of a known question. skewness: of how often a chunk is among the first 10. "
        "`log`: known and asked are drawn from the same questions; `apart`: half of the paragraphs, drawn by chance, "
        "is taken out of the collection, and the questions to these are the known ones; `split`: by the splits train "
        "and test, of which in squad_train_sample no paragraph answers questions of both, so that pushing back what "
        f"answers known questions is a leak. {harness.machine()}."
    )


def labelled(dataset: Dataset) -> list[LabelledQuery]:
    return [
        LabelledQuery(query.text, frozenset(d for d, grade in dataset.qrels[i].items() if grade > 0))
        for i, query in dataset.queries.items()
    ]


def encoded(collection: Collection, queries: list[LabelledQuery]) -> NDArray[np.float32]:
    return np.asarray(collection.encoder.encode_queries([query.text for query in queries]), np.float32)


def squad_cases(collection: Collection, test: Dataset, train: Dataset, asked: int) -> list[Case]:
    rng = np.random.default_rng(0)
    known, others = labelled(train), labelled(test)
    vectors = encoded(collection, known), encoded(collection, others)
    both, every = [*known, *others], np.concatenate(vectors)
    mixed = rng.permutation(len(both))
    half = len(both) // 2
    paragraphs = sorted({document for query in both for document in query.documents})
    gone = set(rng.permutation(paragraphs)[: len(paragraphs) // 2].tolist())
    outside = np.array([not gone.isdisjoint(query.documents) for query in both])
    without = np.sort(np.concatenate([collection.chunk_ids(document) for document in gone]))
    inside = [both[row] for row in mixed if not outside[row]]
    return [
        found("log", collection, every[mixed[:half]], [both[row] for row in mixed[half : half + asked]]),
        found("apart", collection, every[outside], inside[:asked], without),
        found("split", collection, vectors[0], [others[row] for row in rng.permutation(len(others))[:asked]]),
    ]


def found(
    name: str,
    collection: Collection,
    known: NDArray[np.float32],
    asked: list[LabelledQuery],
    without: NDArray[np.int64] | None = None,
) -> Case:
    without = np.empty(0, np.int64) if without is None else without
    hits = searched(collection, asked, 3 * K if len(without) else K)
    first = np.argsort(np.isin(hits.ids, without), axis=1, kind="stable")[:, :K]
    ids = np.take_along_axis(hits.ids, first, axis=1)
    assert not np.isin(ids, without).any()
    scores, labels = np.take_along_axis(hits.scores, first, axis=1), np.take_along_axis(hits.labels, first, axis=1)
    return Case(name, known, ids, scores, labels, np.array([len(query.documents) for query in asked]), without)


def study(
    name: str, case: Case, collection: Collection, lines: list[str], rows: list[harness.Row]
) -> dict[str, NDArray[np.float64]]:
    """Table and rows of a case; of each correction the difference in nDCG@10 with its interval."""
    there = np.setdiff1d(collection.chunk_ids(), case.without)
    vectors = collection.vectors(there)
    items = vectors[np.random.default_rng(0).permutation(len(there))[:ITEMS]]
    unit = case.known / np.linalg.norm(case.known, axis=1, keepdims=True)
    hubs = there[np.unique((unit @ vectors.T).argmax(axis=1))]
    active = np.isin(case.ids[:, 0], hubs)
    raw, skewness = judged(case, case.scores, there)
    told = ", ".join(f"{metric} {raw[metric].mean():.3f}" for metric in METRICS)
    lines += [
        "",
        f"## {name}",
        "",
        f"{len(case.known):,} known questions, {len(case.ids):,} asked, {len(there):,} chunks. Cosine: {told}; "
        f"skewness {skewness:.2f}. The first hit of {active.mean():.0%} is the nearest chunk of a known question.",
        "",
        "| correction | skewness | " + " | ".join(METRICS) + " | nDCG@10, dynamic |",
        "|---|---|---|---|---|---|",
    ]
    gains = {}
    rows_of = np.searchsorted(there, case.ids)
    for kind, beta in KINDS:
        label = kind if kind == "csls" else f"{kind} {beta:g}"
        bias = HubnessBanks(case.known, items, kind, beta_queries=beta, beta_items=beta).bias(vectors)
        scores = case.scores - bias[rows_of]
        own, skewness = judged(case, scores, there)
        dynamic, _ = judged(case, np.where(active[:, None], scores, case.scores), there)
        cells = [interval(own[metric] - raw[metric]) for metric in METRICS]
        gains[label] = cells[-1]
        cells.append(interval(dynamic["nDCG@10"] - raw["nDCG@10"]))
        written = [f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" for mean, low, high in cells]
        lines.append(f"| {label} | {skewness:.2f} | {' | '.join(written)} |")
        ndcg = float(own["nDCG@10"].mean()), float(raw["nDCG@10"].mean())
        rows.append(harness.compare(f"{name}: {label}", "nDCG@10", "", ndcg[0], ("cosine", ""), ndcg[1], 1))
    return gains


def judged(case: Case, scores: NDArray[np.float32], there: NDArray[np.int64]) -> tuple[Values, float]:
    """The metrics of each question, and the skewness of being among the first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    hits = np.take_along_axis(case.labels, order, axis=1)
    gains = 1 / np.log2(np.arange(2, DEPTH + 2))
    ideal = np.cumsum(gains)[np.minimum(case.relevant, DEPTH) - 1]
    values = {
        "R@1": hits[:, 0] / case.relevant,
        "R@10": hits.sum(axis=1) / case.relevant,
        "nDCG@10": hits @ gains / ideal,
    }
    return values, hub_report(np.take_along_axis(case.ids, order, axis=1), there).skewness


def interval(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean and the 95 % interval of it."""
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLED, len(values)))
    return np.array([values.mean(), *np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))])


def cost(collection: Collection, case: Case, lines: list[str]) -> None:
    """Of the operator for a question with 100 hits, when biases are remembered; and of a bias that is new."""
    queries = (case.known / np.linalg.norm(case.known, axis=1, keepdims=True)).astype(np.float16)
    path = collection.path / "hubness" / "benchmark.safetensors"
    some = np.arange(256) % len(case.ids)
    hits = [Hits(case.ids[row], case.scores[row], store=collection) for row in some]
    lines += ["", f"µs a question of {K} hits, with {len(queries):,} known questions (CPU time):", ""]
    lines += [
        "| kind | biases remembered, batches of 256 | one by one | biases new, for each chunk |",
        "|---|---|---|---|",
    ]
    for kind in ("csls", "inverted_softmax"):
        model = HubnessModel(
            collection.encoder_fingerprint, queries, kind, {"inverted_softmax": 20.0}, 10, ITEMS, 0, {}
        )
        save_hubness(model, path)
        operator = HubnessNorm(model="benchmark")
        begin = time.process_time()
        operator.run_batch(hits, collection)
        new = (time.process_time() - begin) / len(np.unique([own.ids for own in hits]))
        calls = {
            "batch": lambda operator=operator: operator.run_batch(hits, collection),
            "single": lambda operator=operator: [operator.run(own, collection) for own in hits],
        }
        seconds = harness.interleaved(calls, 7, time.process_time)
        batch, single = (seconds[call] / len(hits) * 1e6 for call in ("batch", "single"))
        lines.append(f"| {kind} | {batch:.0f} | {single:.0f} | {new * 1e6:.0f} |")
    path.unlink()


def interests(collection: Collection, dataset: Dataset, count: int, lines: list[str], rows: list[harness.Row]) -> None:
    """Questions made of two, about different articles: does the first ten hold what answers both?"""
    titles = {document.id: document.metadata["title"] for document in dataset.documents}
    rng, ids = np.random.default_rng(0), sorted(dataset.queries)
    answer = {i: next(d for d, grade in dataset.qrels[i].items() if grade > 0) for i in ids}
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        one, two = (ids[row] for row in rng.integers(0, len(ids), 2))
        if titles[answer[one]] != titles[answer[two]]:
            pairs.append((one, two))
    texts = [f"{dataset.queries[one].text} {dataset.queries[two].text}" for one, two in pairs]
    vectors = collection.encoder.encode_queries(texts)
    queries = [replace(Query(text), vector=vector) for text, vector in zip(texts, vectors, strict=True)]
    runs = {
        "dense": Dense(k=DEPTH).run_batch(queries, collection),
        "mixture of 2": MixtureRetrieve(k=DEPTH, interests=2).run_batch(queries, [None] * count, collection=collection),
        "mixture of 3": MixtureRetrieve(k=DEPTH).run_batch(queries, [None] * count, collection=collection),
    }
    values = {
        name: np.array([diversity(own, answer, pair) for own, pair in zip(hits, pairs, strict=True)])
        for name, hits in runs.items()
    }
    lines += [
        "",
        f"## Several interests: {count} pairs of squad questions about different articles",
        "",
        "| retrieval | aspect recall@10 | both answered | alpha-nDCG@10 | intra-list distance@10 |",
        "|---|---|---|---|---|",
    ]
    for name, own in values.items():
        means = own.mean(axis=0)
        change = ""
        if name != "dense":
            mean, low, high = interval(own[:, 0] - values["dense"][:, 0])
            change = f" ({mean:+.3f}, {low:+.3f} to {high:+.3f})"
            recall = float(means[0]), float(values["dense"][:, 0].mean())
            rows.append(
                harness.compare(
                    f"compound questions: {name}", "aspect recall@10", "", recall[0], ("dense", ""), recall[1], 1
                )
            )
        lines.append(f"| {name} | {means[0]:.3f}{change} | {means[1]:.1%} | {means[2]:.3f} | {means[3]:.3f} |")


def diversity(hits: Hits, answer: dict[str, str], pair: tuple[str, str]) -> tuple[float, float, float, float]:
    aspects = {answer[question]: {question} for question in pair}
    ranking = [chunk.document for chunk in hits.chunks()]
    recall = aspect_recall(ranking, aspects, DEPTH)
    assert isinstance(hits.store, Collection)
    apart = intra_list_distance(hits.store.vectors(hits.ids), DEPTH)
    return recall, float(recall == 1), alpha_ndcg(ranking, aspects, DEPTH), apart


def plot(figure: Any, gains: dict[str, dict[str, NDArray[np.float64]]]) -> None:
    axes = figure.subplots()
    width = 0.8 / len(gains)
    for place, (name, own) in enumerate(gains.items()):
        mean, low, high = np.array(list(own.values())).T
        at = np.arange(len(own)) + (place + 0.5) * width - 0.4
        axes.bar(at, mean, width, label=name, yerr=[mean - low, high - mean], error_kw={"elinewidth": 0.8})
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(own)), own)
    axes.set_ylabel("nDCG@10, difference to the cosine")
    axes.set_ylim(-0.15, 0.06)
    axes.legend(title="known and asked questions")


if __name__ == "__main__":
    main()
