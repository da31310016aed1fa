"""Relevance filters on real collections: which way to cut a list of candidates is best, and what it says of no answer.

python benchmarks/relevance_filter.py                        scifact, squad_train_sample and climate_fever
python benchmarks/relevance_filter.py --data scifact         some of them
python benchmarks/relevance_filter.py --quick                120 questions of scifact; writes nothing

Trained on the questions of the split `train` where there is one, tested on those of `test`; climate_fever has one
split, of which a third is tested. 100 candidates by the default encoder. Unanswerable are the test questions with all
that is relevant taken out of the collection.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import harness
import numpy as np
from numpy.typing import NDArray

from rag.collection import Collection
from rag.errors import InputError, NotFoundError
from rag.evaluate import Dataset, collection_of, find
from rag.evaluate.candidates import Candidates, find_candidates, fit_scorers, scorers_of
from rag.evaluate.judgements import LabelledQuery, synthetic_queries
from rag.evaluate.splits import extrapolation, resttest
from rag.operators.post_retrieval import RelevanceFilter
from rag.operators.retrieval import Fuse
from rag.relevance import (
    METHODS,
    CandidateLists,
    FittedMethod,
    Method,
    Recipe,
    RelevanceModel,
    fit,
    save_models,
)
from rag.relevance.mappings import MAPPINGS
from rag.relevance.measures import auroc, calibration_error, cut, pr_auc
from rag.relevance.thresholds import OperatingCurve
from rag.types import Hits, Query

NAMES = ("scifact", "squad_train_sample", "climate_fever")
K = 100
SPARE = 8  # further candidates, that move up where relevant ones are taken out
RESAMPLED = 50
OURS = "list_adapter"
SPLIT: tuple[Method, ...] = ("zscore", "truncation", "adapter", "list_adapter")
BASELINES = ("raw", "max", "zscore", "topk", "gap", "platt", "truncation")


@dataclass
class Lists:
    """Candidate lists of one data set: to train, to test, and the latter without what is relevant; and what all scorers
    found for the first two."""

    train: CandidateLists
    test: CandidateLists
    gone: CandidateLists
    synthetic: CandidateLists
    learned: Candidates
    asked: Candidates


@dataclass
class Study:
    """What was found on one data set."""

    lines: list[str] = field(default_factory=list)
    rows: list[harness.Row] = field(default_factory=list)
    quality: dict[str, float] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="120 questions of scifact; writes nothing")
    parser.add_argument("--data", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--questions", type=int, default=2000, help="that test, at most; thrice as many train")
    options = parser.parse_args()
    if options.quick:
        options.data, options.questions = ["scifact"], 120
    studies = {}
    for name in options.data:
        try:
            dataset = find(name)
        except NotFoundError as error:
            print(f"{name} is left out: {error}")
            continue
        with collection_of(dataset, progress=True) as collection:
            studies[name] = study(name, collection, lists_of(dataset, collection, options.questions))
        print("\n".join(studies[name].lines), flush=True)
    if studies and not options.quick:
        lines = [line for name, found in studies.items() for line in ("", f"## {name}", "", *found.lines)]
        rows = [row for found in studies.values() for row in found.rows]
        harness.write("relevance_filter", "Relevance filtering", [notes(), *lines], rows, lambda f: plot(f, studies))


def notes() -> str:
    return (
        f"{K} candidates of all-MiniLM-L6-v2. PR AUC is pooled over pairs, with the 95 % interval of {RESAMPLED} "
        "resamples of the queries. `filtered@95`: candidates removed where just 95 % of what is relevant is kept; then "
        "what the threshold for 95 % that was set in training did here. `auroc_unanswerable`: the best value of a "
        f"question against that with everything relevant taken out. {harness.machine()}."
    )


def lists_of(dataset: Dataset, collection: Collection, most: int) -> Lists:
    """Train on one split, or on two thirds of the only one."""
    test = labelled(dataset.sample(most))
    try:
        train = labelled(find(dataset.name, "train").sample(3 * most))
    except NotFoundError:
        order = np.random.default_rng(0).permutation(len(test))
        train, test = [test[i] for i in order[len(test) // 3 :]], [test[i] for i in order[: len(test) // 3]]
    deep = scorers_of(collection, K + SPARE)
    learned, asked = (find_candidates(collection, queries, deep) for queries in (train, test))
    made = find_candidates(
        collection, synthetic_queries(collection, min(most, 2000)), {"dense": scorers_of(collection, K)["dense"]}
    )
    return Lists(
        top(learned).lists("dense"),
        top(asked).lists("dense"),
        top(asked.without_relevant()).lists("dense"),
        made.lists("dense"),
        learned,
        asked,
    )


def top(found: Candidates) -> Candidates:
    """The first K hits of each list."""
    return replace(found, hits={scorer: [h.top(K) for h in own] for scorer, own in found.hits.items()})


def labelled(dataset: Dataset) -> list[LabelledQuery]:
    return [
        LabelledQuery(query.text, frozenset(d for d, grade in dataset.qrels[i].items() if grade > 0))
        for i, query in dataset.queries.items()
    ]


def study(name: str, collection: Collection, lists: Lists) -> Study:
    found = Study()
    test = lists.test
    model = fit(lists.train, encoder=collection.encoder_fingerprint)
    answered = test.judged.any(axis=1).mean()
    found.lines += [
        f"{len(lists.train):,} questions train, {len(test):,} test, of which {answered:.1%} have something relevant "
        f"among {K}; {test.judged.sum():,} of {test.mask.sum():,} candidates are.",
        "",
        "| method | PR AUC | 95 % interval | filtered@95 | P@R95 | recall kept | filtered | null | MRR | damaged | "
        "auroc_unanswerable | ECE |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    figures = {method: measured(model.methods[method], lists) for method in METHODS}
    for method, own in figures.items():
        low, high = interval(model.methods[method], test)
        cells = [f"{own[c]:.3f}" for c in ("filtered@95", "p@r95", "recall", "filtered", "null", "mrr", "damaged")]
        found.lines.append(
            f"| {method} | {own['pr_auc']:.4f} | {low:.3f} to {high:.3f} | {' | '.join(cells)} | "
            f"{own['auroc_unanswerable']:.3f} | {own['ece']:.4f} |"
        )
        found.quality[method] = own["pr_auc"]
    for metric in ("pr_auc", "filtered@95", "auroc_unanswerable"):
        for peer in BASELINES:
            ours, theirs = figures[OURS][metric], figures[peer][metric]
            found.rows.append(harness.compare(name, metric, "", ours, (peer, ""), theirs, 1))
    found.rows.append(
        harness.compare(
            name, "pr_auc of the adapter", "", figures["adapter"]["pr_auc"], ("raw", ""), figures["raw"]["pr_auc"], 1
        )
    )
    lines, rows = scorers(name, lists)
    found.lines += ["", *lines, "", *memorised(lists), "", *variants(lists), "", *costs(collection, model, lists)]
    found.rows += rows
    return found


def scorers(name: str, lists: Lists) -> tuple[list[str], list[harness.Row]]:
    """Every scorer, calibrated on the training questions; and its lists as judges of whether there is an answer."""
    models = fit_scorers(top(lists.learned), methods=("truncation",)).models
    asked, gone = (top(each).fused(models, K) for each in (lists.asked, lists.asked.without_relevant()))
    ndcg = {scorer: gain(own, lists.asked) for scorer, own in asked.hits.items()}
    for method in ("rrf", "weighted"):
        pairs = zip(asked.hits["dense"], asked.hits["bm25"], strict=True)
        ndcg[method] = gain([Fuse(method=method, k=K).run(list(pair)) for pair in pairs], lists.asked)  # type: ignore[arg-type]
    lines = ["| scorer | nDCG@10 | PR AUC raw | calibrated | ECE | auroc_unanswerable, best score | by the list |"]
    lines.append("|---|---|---|---|---|---|---|")
    unanswerable = {}
    for scorer, model in models.items():
        own, without, fitted = asked.lists(scorer), gone.lists(scorer), model.method("truncation")
        chances, had = fitted.relevance(fitted.scorer(own).values), own.judged.any(axis=1)
        best = auroc(own.scores[had, 0], without.scores[had, 0])
        unanswerable[scorer] = auroc(model.answerable(own)[had], model.answerable(without)[had])
        lines.append(
            f"| {scorer} | {ndcg[scorer]:.4f} | {pr_auc(own.masked(own.scores), own.judged):.4f} | "
            f"{pr_auc(own.masked(chances), own.judged):.4f} | "
            f"{calibration_error(chances[own.mask], own.judged[own.mask]):.4f} | {best:.3f} | "
            f"{unanswerable[scorer]:.3f} |"
        )
    lines += [f"| {method} | {ndcg[method]:.4f} | | | | | |" for method in ("rrf", "weighted")]
    rows = [
        harness.compare(name, "nDCG@10 of fusion", "", ndcg["fused"], (peer, ""), ndcg[peer], 1)
        for peer in ("rrf", "weighted")
    ]
    rows.append(
        harness.compare(
            name, "auroc_unanswerable by the list", "", unanswerable["fused"], ("dense", ""), unanswerable["dense"], 1
        )
    )
    return lines, rows


def gain(hits: list[Hits], found: Candidates) -> float:
    """Mean nDCG@10, every relevant chunk of one grade."""
    discount = 1 / np.log2(np.arange(2, 12))
    values = [
        float((np.isin(h.ids[:10], own) * discount[: min(10, len(h))]).sum() / discount[: len(own)].sum())
        for h, own in zip(hits, found.relevant, strict=True)
    ]
    return float(np.mean(values))


def memorised(lists: Lists) -> list[str]:
    """How well the hits with a relevance of a half are what is relevant (F1 of a question), for questions like those of
    the training and unlike them; z-score, which learns two numbers, tells how much harder the latter are by
    themselves."""
    lines = ["| F1, ReSTTest with 5 buckets | interpolation | extrapolation | drop |", "|---|---|---|---|"]
    test = lists.test.take(np.flatnonzero(lists.test.judged.any(axis=1)))
    assert lists.train.queries is not None
    assert test.queries is not None
    try:
        rotations = resttest(lists.train.queries, test.queries)
    except InputError as error:
        return [f"No interpolation and extrapolation: {error.message}."]
    for method in SPLIT:

        def judge(train: NDArray[np.int64], rows: NDArray[np.int64], method: Method = method) -> NDArray[np.float64]:
            fitted = fit(lists.train.take(train), encoder="", methods=(method,)).methods[method]
            some = test.take(rows)
            kept = fitted.scorer(some).values >= fitted.value_of(0.5)
            return 2 * (kept & some.judged).sum(axis=1) / (kept.sum(axis=1) + some.judged.sum(axis=1))

        one = extrapolation(rotations, judge)
        cells = [f"{p.mean:.4f} ({p.low:.3f} to {p.high:.3f})" for p in (one.interpolation, one.extrapolation)]
        lines.append(f"| {method} | {' | '.join(cells)} | {one.drop:.1%} |")
    return lines


def measured(method: FittedMethod, lists: Lists) -> dict[str, float]:
    labels, mask = lists.test.judged, lists.test.mask
    values, gone = method.scorer(lists.test).values, method.scorer(lists.gone).values
    exact = cut(values, labels, OperatingCurve.of(values, labels).at_recall(0.95))
    kept = cut(values, labels, method.curve.at_recall(0.95))
    had = labels.any(axis=1)
    return {
        "pr_auc": pr_auc(values, labels),
        "filtered@95": exact.filtered,
        "p@r95": exact.precision,
        "recall": kept.recall,
        "filtered": kept.filtered,
        "null": kept.null,
        "mrr": kept.mrr,
        "damaged": kept.damaged,
        "auroc_unanswerable": auroc(values[had].max(axis=1), gone[had].max(axis=1)),
        "ece": calibration_error(method.relevance(values)[mask], labels[mask]),
    }


def interval(method: FittedMethod, lists: CandidateLists) -> tuple[float, float]:
    """Of PR AUC, by resampling queries."""
    values, rng = method.scorer(lists).values, np.random.default_rng(0)
    some = (rng.integers(0, len(lists), len(lists)) for _ in range(RESAMPLED))
    low, high = np.quantile([pr_auc(values[rows], lists.judged[rows]) for rows in some], (0.025, 0.975))
    return float(low), float(high)


def variants(lists: Lists) -> list[str]:
    """PR AUC of the adapters in other forms, and trained without labels."""
    recipes = {mapping: Recipe(mapping=mapping) for mapping in MAPPINGS} | {
        "magnitude-invariant": Recipe(invariant=True)
    }
    kinds = ("adapter", "list_adapter", "joint_adapter")
    lines = ["| PR AUC of | " + " | ".join(kinds) + " |", "|---|---|---|---|"]
    cases = {name: (lists.train, recipe) for name, recipe in recipes.items()}
    cases["linear, trained on questions made of the chunks"] = (lists.synthetic, Recipe())
    for case, (train, recipe) in cases.items():
        model = fit(train, encoder="", methods=kinds, recipe=recipe)
        scores = [pr_auc(model.methods[kind].scorer(lists.test).values, lists.test.judged) for kind in kinds]
        lines.append(f"| {case} | " + " | ".join(f"{score:.4f}" for score in scores) + " |")
    return lines


def costs(collection: Collection, model: RelevanceModel, lists: Lists) -> list[str]:
    """Of the operator, on one thread, for batches of 256."""
    path = collection.path / "relevance" / "benchmark.safetensors"
    save_models([model], path)
    some = [row % len(lists.test) for row in range(256)]
    queries = [Query("", vector=lists.test.queries[row]) for row in some]  # type: ignore[index]
    hits = [Hits(np.arange(K), lists.test.scores[row]) for row in some]
    calls = {m: runner(RelevanceFilter(method=m, model="benchmark"), queries, hits, collection) for m in METHODS}
    seconds = harness.interleaved(calls, 5, time.process_time)
    path.unlink()
    return ["µs a query of 100 hits: " + ", ".join(f"{m} {s / 256 * 1e6:.1f}" for m, s in seconds.items())]


def runner(each: RelevanceFilter, queries: list[Query], hits: list[Hits], kb: Collection) -> Callable[[], object]:
    return lambda: each.run_batch(queries, hits, kb)


def plot(figure: Any, studies: dict[str, Study]) -> None:
    axes = figure.subplots()
    width = 0.8 / len(studies)
    for place, (name, found) in enumerate(studies.items()):
        at = np.arange(len(METHODS)) + place * width
        axes.bar(at, [found.quality[m] / found.quality["raw"] for m in METHODS], width, label=name)
    axes.axhline(1.5, color="grey", linestyle=":")
    axes.set_xticks(np.arange(len(METHODS)) + 0.4 - width / 2, METHODS)
    axes.set_ylabel("PR AUC, as a multiple of that of the raw cosine")
    axes.legend()


if __name__ == "__main__":
    main()
