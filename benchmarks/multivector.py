"""Late interaction: quality, candidate generators, speed and bytes on real collections.

python benchmarks/multivector.py                     scifact, squad_train_sample, cranfield and wordnet_glosses
python benchmarks/multivector.py --data cranfield    some of them
python benchmarks/multivector.py --quick             500 documents and 50 questions; writes nothing

Tokens are the last hidden states of the default encoder, which was not trained for late interaction; all contenders
rank by the same. Where a training split is at hand, candidates are compared for trained tokens too (mv_projection.py).
Exact means MaxSim against every document. `recall` is that of the exact ten best. Speeds are by CPU time on one thread
and by wall time on two, medians of passes in turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import harness
import numpy as np
from index import default_cache
from mv_data import Collection, Encoded, Ids, collection
from mv_projection import principal, projected, trained
from threadpoolctl import threadpool_limits

from rag.index.multivector import FixedDimensionalEncoding, MultiVectorIndex, TokenCodec, TokenStore
from rag.index.multivector.candidates import AT_LEAST, WIDER, narrowed
from rag.index.multivector.centroids import CentroidIndex, learn_centroids
from rag.index.protocol import Matches
from rag.index.scan import ScanIndex

NAMES = ("scifact", "squad_train_sample", "cranfield", "wordnet_glosses")
WITH_TRAINED = ("scifact", "squad_train_sample")  # the latter's training questions; the former saw nothing
BUDGETS = (100, 300, 1000)
RANKED = 200  # candidates that are ranked by MaxSim where quality is compared
K = 10
CODECS: tuple[TokenCodec, ...] = ("float16", "int8", "sign")
NARROWED: tuple[TokenCodec, ...] = ("int8", "sign")
ENCODINGS = {
    "FDE 4/8/20": (4, 8, True),
    "FDE 4/16/20": (4, 16, True),
    "FDE 5/16/20": (5, 16, True),
    "FDE 5/16/20, no fill": (5, 16, False),
}


Search: TypeAlias = Callable[[Encoded, int], Ids]
"""The ten best of queries, by so many threads."""


@dataclass
class Study:
    """What was found on one collection: tables for the page, and rows."""

    lines: list[str]
    rows: list[harness.Row]
    ndcg: dict[str, float]
    speeds: dict[str, tuple[float, float]]
    """By contender: recall@10 and queries a CPU second."""


def stores(data: Collection, codecs: Sequence[TokenCodec]) -> dict[str, TokenStore]:
    """The documents' tokens in each codec."""
    held: dict[str, TokenStore] = {}
    for codec in codecs:
        held[codec] = TokenStore(data.documents.tokens.shape[1], codec)
        held[codec].add(np.arange(len(data.texts)), data.documents.tokens, data.documents.offsets)
    return held


def share(found: Ids, truth: Ids) -> float:
    """Of the true best, how many were found."""
    met = sum(len(np.intersect1d(one[one >= 0], best[best >= 0])) for one, best in zip(found, truth, strict=True))
    return met / max(int((truth >= 0).sum()), 1)


def interleaved(first: Ids, second: Ids, count: int) -> Ids:
    """Two rankings in turns, without what came before, -1 at the end where there is too little."""
    merged = np.full((len(first), count), -1, np.int64)
    width = min(first.shape[1], second.shape[1], count)
    for row, pair in enumerate(zip(first[:, :width], second[:, :width], strict=True)):
        both = np.stack(pair, axis=1).ravel()
        both = both[both >= 0]
        unique = both[np.sort(np.unique(both, return_index=True)[1])][:count]
        merged[row, : len(unique)] = unique
    return merged


def generators(data: Collection) -> Iterator[tuple[str, int, Callable[[int], Ids]]]:
    """Name, numbers a document, and what gives so many candidates for each question."""
    most = max(BUDGETS)
    words, near, means = data.bm25(most), data.near(most).ids, by_means(data, most)
    yield "BM25", 0, lambda w: words[:, :w]
    yield "single vector", data.documents.vectors.shape[1], lambda w: near[:, :w]
    yield "mean of the tokens", data.documents.tokens.shape[1], lambda w: means[:, :w]
    yield "BM25 and single vector in turns", 0, lambda w: interleaved(words, near, w)
    by_centroids = centroid_index(data)
    sets = data.queries.tokens, data.queries.offsets
    alone = by_centroids.search(*sets, most).ids
    yield f"{by_centroids.centroids:,} centroids", 0, lambda w: alone[:, :w]
    first = data.near(WIDER * most + AT_LEAST)
    scores = by_centroids.scores(*sets, first.ids)

    def both(budget: int) -> Ids:
        deep = min(WIDER * budget + AT_LEAST, first.ids.shape[1])
        return narrowed(Matches(first.ids[:, :deep], first.scores[:, :deep]), scores[:, :deep], budget)

    yield "single vector, then centroids", data.documents.vectors.shape[1], both
    for name, (k_sim, d_proj, fill) in ENCODINGS.items():
        encoding = FixedDimensionalEncoding(data.documents.tokens.shape[1], k_sim, d_proj, fill_empty=fill)
        yield name, encoding.size, nearest(data, encoding, most)


def centroid_index(data: Collection) -> CentroidIndex:
    """The documents by their tokens' centroids."""
    index = CentroidIndex(learn_centroids(data.documents.tokens, np.random.default_rng(0)))
    index.add(np.arange(len(data.texts)), data.documents.tokens, data.documents.offsets)
    return index


def by_means(data: Collection, most: int) -> Ids:
    """The documents with the nearest means of tokens."""
    size = data.documents.tokens.shape[1]
    index = ScanIndex(size, "cosine", "float16")
    index.add(np.arange(len(data.texts)), np.add.reduceat(data.documents.tokens, data.documents.offsets[:-1], axis=0))
    return index.search(np.add.reduceat(data.queries.tokens, data.queries.offsets[:-1], axis=0), most).ids


def nearest(data: Collection, encoding: FixedDimensionalEncoding, most: int) -> Callable[[int], Ids]:
    """Candidates by encodings, in half precision."""
    index = ScanIndex(encoding.size, "ip", "float16")
    for first in range(0, len(data.texts), 2000):
        some = np.arange(first, min(first + 2000, len(data.texts)))
        part = data.documents.take(some)
        index.add(some, encoding.encode_documents(part.tokens, part.offsets))
    found = index.search(encoding.encode_queries(data.queries.tokens, data.queries.offsets), most).ids
    return lambda w: found[:, :w]


def quality(data: Collection, store: TokenStore, truth: Ids) -> tuple[list[str], dict[str, float]]:
    """nDCG@10 of each way to rank, and how good candidate generators are at equal budgets."""
    queries = data.queries.tokens, data.queries.offsets
    ndcg = {
        "BM25": data.ndcg(data.bm25(K)),
        "single vector": data.ndcg(data.near(K).ids),
        "exact MaxSim": data.ndcg(truth),
    }
    lines = [
        "| candidates | numbers a document | "
        + " | ".join(f"recall of {w}" for w in BUDGETS)
        + f" | nDCG@10, {RANKED} |",
        "|---|---|" + "---|" * (len(BUDGETS) + 1),
    ]
    for name, numbers, candidates in generators(data):
        ranked = store.maxsim(*queries, K, candidates=np.ascontiguousarray(candidates(RANKED))).ids
        ndcg[f"{name} + MaxSim"] = data.ndcg(ranked)
        found = [f"{share(candidates(w), truth):.3f}" for w in BUDGETS]
        lines.append(f"| {name} | {numbers or ''} | {' | '.join(found)} | {ndcg[f'{name} + MaxSim']:.4f} |")
    return lines, ndcg


def late(data: Collection, cache: Path) -> list[str]:
    """The same of tokens of 128 numbers: those that matter most of the encoder's own, and such as were trained."""
    lines = []
    for title, matrix in (
        ("Principal directions, 128 numbers a token", principal(data)),
        ("Trained for late interaction, 128 numbers a token", trained(cache)),
    ):
        own = projected(data, matrix)
        store = stores(own, ["float16"])["float16"]
        truth = store.maxsim(own.queries.tokens, own.queries.offsets, K).ids
        table, ndcg = quality(own, store, truth)
        lines += [f"### {title}", "", *table, "", f"nDCG@10 of exact MaxSim: {ndcg['exact MaxSim']:.4f}.", ""]
    return lines


def brute_force(data: Collection) -> Search:
    """MaxSim of NumPy: one product with all tokens, and the largest of each document."""
    tokens, starts = data.documents.tokens, data.documents.offsets[:-1]

    def search(queries: Encoded, threads: int) -> Ids:
        found = []
        for begin, end in pairwise(queries.offsets.tolist()):
            best = np.maximum.reduceat(queries.tokens[begin:end] @ tokens.T, starts, axis=1).sum(0)
            top = np.argpartition(-best, K)[:K]
            found.append(top[np.argsort(-best[top])])
        return np.array(found)

    return search


def contenders(data: Collection, held: dict[str, TokenStore]) -> dict[str, tuple[bool, Search]]:
    """By name: whether it is ours, and its search."""
    dim, size = data.documents.tokens.shape[1], data.documents.vectors.shape[1]
    found: dict[str, tuple[bool, Search]] = {}
    for codec, store in held.items():
        found[f"all documents, {codec}"] = True, comparing_all(store)
    for codec in NARROWED:
        index = MultiVectorIndex(dim, "given", vector_dim=size, tokens=codec)
        found[f"single vector, then centroids, {codec}"] = True, searching(index, data)
    index = MultiVectorIndex(dim, "given", vector_dim=size, tokens="int8", centroids=False)
    found["single vector, int8"] = True, searching(index, data)
    found["centroids, int8"] = True, searching(MultiVectorIndex(dim, "centroids", tokens="int8"), data)
    found["FDE in pq, int8"] = True, searching(MultiVectorIndex(dim, "fde", tokens="int8", centroids=False), data)
    found["NumPy, all documents"] = False, brute_force(data)
    return found


def comparing_all(store: TokenStore) -> Search:
    return lambda queries, threads: store.maxsim(queries.tokens, queries.offsets, K, threads=threads).ids


def searching(index: MultiVectorIndex, data: Collection) -> Search:
    """In an index of the documents, by as many candidates as it takes for 0.99, as it thinks by itself."""
    given = index.generator == "given"
    documents = data.documents
    vectors = documents.vectors if given else None
    index.add(np.arange(len(data.texts)), documents.tokens, documents.offsets, vectors)

    def search(queries: Encoded, threads: int) -> Ids:
        own = queries.vectors if given else None
        return index.search(queries.tokens, queries.offsets, K, vectors=own, recall=0.99, threads=threads).ids

    return search


def speed(
    data: Collection, searches: dict[str, tuple[bool, Search]], truth: Ids, threads: int, passes: int, count: int
) -> dict[str, tuple[bool, float, float]]:
    """By contender: whether it is ours, recall@10, and queries a second, one question a call."""
    some = data.queries.take(np.arange(min(count, len(data.questions))))
    asked = [some.take(np.array([row])) for row in range(len(some.offsets) - 1)]
    result: dict[str, tuple[bool, float, float]] = {}
    seconds: dict[str, list[float]] = {}
    clock = time.process_time if threads == 1 else time.perf_counter
    with threadpool_limits(threads):
        for _ in range(passes):
            for name, (ours, search) in searches.items():
                few = asked if ours else asked[: max(len(asked) // 5, 1)]
                start = clock()
                found = np.concatenate([search(query, threads) for query in few])
                seconds.setdefault(name, []).append((clock() - start) / len(few))
                result[name] = ours, share(found, truth[: len(few)]), 0.0
    return {name: (ours, recall, 1 / float(np.median(seconds[name]))) for name, (ours, recall, _) in result.items()}


def study(data: Collection, threads: Sequence[int], passes: int, count: int) -> Study:
    held = stores(data, CODECS)
    tokens = len(data.documents.tokens)
    truth = held["float16"].maxsim(data.queries.tokens, data.queries.offsets, K).ids
    lines, ndcg = quality(data, held["float16"], truth)
    head = f"{len(data.texts):,} documents, {tokens:,} tokens x {data.documents.tokens.shape[1]}, "
    head += f"{len(data.questions):,} questions of {len(data.queries.tokens) / len(data.questions):.1f} tokens"
    lines = [f"## {data.name}", "", f"{head}.", "", *lines, ""]
    lines += [
        "| way to rank | nDCG@10 |",
        "|---|---|",
        *(f"| {way} | {value:.4f} |" for way, value in ndcg.items()),
        "",
    ]
    near = np.ascontiguousarray(data.near(RANKED).ids)
    lines += [f"| tokens as | bytes a token | nDCG@10, exact | single vector {RANKED} + MaxSim |", "|---|---|---|---|"]
    rows: list[harness.Row] = []
    for codec, store in held.items():
        kept = sum(store.stats().bytes.values()) / tokens
        queries = data.queries.tokens, data.queries.offsets
        exact = data.ndcg(store.maxsim(*queries, K).ids)
        ranked = data.ndcg(store.maxsim(*queries, K, candidates=near).ids)
        lines.append(f"| {codec} | {kept:.1f} | {exact:.4f} | {ranked:.4f} |")
        float32 = ("float32 tokens", "modular-rag")
        size = data.documents.tokens.shape[1] * 4
        rows.append(
            harness.compare(f"{data.name}, {codec}", "bytes", "bytes a token", kept, float32, size, 1, more=False)
        )
    for way, value in ndcg.items():
        if "MaxSim" in way:
            single = ("single vector", "modular-rag")
            rows.append(harness.compare(f"{data.name}, {way}", "ndcg@10", "", value, single, ndcg["single vector"], 1))
    lines += ["", "| search, one question a call | threads | recall@10 | queries/s |", "|---|---|---|---|"]
    speeds = {}
    searches = contenders(data, held)
    for width in threads:
        rates = speed(data, searches, truth, width, passes, count)
        _, _, slow = rates["NumPy, all documents"]
        for name, (mine, recall, qps) in rates.items():
            lines.append(f"| {name} | {width} | {recall:.4f} | {qps:,.1f} |")
            if mine:
                peer = ("NumPy, all documents", np.__version__)
                where = f"{data.name}, {name}, recall {recall:.3f}"
                rows.append(harness.compare(where, "qps", "q/s", qps, peer, slow, width))
            if width == 1:
                speeds[name] = recall, qps
    return Study([*lines, ""], rows, ndcg, speeds)


def draw(figure: Any, studies: dict[str, Study]) -> None:
    """A panel a collection: recall of the exact ten best over queries a CPU second."""
    for axes, (name, found) in zip(np.atleast_1d(figure.subplots(1, len(studies))), studies.items(), strict=True):
        for place, (way, (recall, qps)) in enumerate(found.speeds.items()):
            axes.plot([qps], [recall], "o", color=f"C{place}", label=way)
        axes.set(xscale="log", xlabel="queries / CPU second", ylabel="recall@10 of exact MaxSim", title=name)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 documents, 50 questions, one pass; writes nothing")
    parser.add_argument("--data", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--questions", type=int, default=1000, help="at most")
    parser.add_argument("--timed", type=int, default=50, help="questions that speeds are measured with")
    parser.add_argument("--cache", type=Path, default=default_cache() / "multivector", help="folder of encoded texts")
    options = parser.parse_args()
    studies = {}
    with ExitStack() as stack:
        if options.quick:
            options.cache = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            options.data, options.passes, options.questions = ["cranfield"], 1, 50
        for name in options.data:
            data = collection(name, options.cache, options.questions, 500 if options.quick else None)
            studies[name] = study(data, options.threads, options.passes, options.timed)
            if name in WITH_TRAINED:
                studies[name].lines += late(data, options.cache)
            print("\n".join(studies[name].lines), flush=True)
            if not options.quick:  # after each: all of them take an hour
                write(studies, options.passes)


def write(studies: dict[str, Study], passes: int) -> None:
    notes = [
        "Tokens: last hidden states of all-MiniLM-L6-v2, 384 numbers, of unit length. `recall` is that of the ten best",
        f"by exact MaxSim. One thread by CPU time, two by wall time; medians of {passes} passes. {harness.machine()}.",
        "",
        *(line for found in studies.values() for line in found.lines),
    ]
    rows = [row for found in studies.values() for row in found.rows]
    harness.write("multivector", "Late interaction", notes, rows, lambda figure: draw(figure, studies))


if __name__ == "__main__":
    main()
