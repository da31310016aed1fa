"""Filtered search, ours and every peer with filters: queries a second at recall 0.98, and batches of hybrid queries.

python benchmarks/filter.py           wordnet glosses (x 384), the first 20,000 and all 117,791, questions of SQuAD
python benchmarks/filter.py --quick   3,000 vectors, all code paths; writes nothing

1, 10 and 50 % of the vectors pass, by an attribute drawn at random, or by one that follows the first principal
direction, so that what passes lies together and mostly far from the query. Ours runs with no knob turned; peers sweep
their effort. One thread, CPU time. Peers without filters in Python (usearch, voyager, scann, svs, rabitqlib, vsag) and
those that need 6 ms and more of CPU a call (lancedb, milvus-lite, chroma, sqlite-vec) are left out.

Hybrid batches: 1,000 queries, each under one of 50 predicates (1 to 50 % pass), all at once against one by one, with
filters that are kept from query to query and with filters made for each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ann_report
import harness
import numpy as np
from ann_data import FASHION, Dataset, Floats, K, datasets
from ann_filters import FILTER_PEERS, FilteredDataset, Predicate, attributes, ours_filtered, predicates
from ann_index import Contender, Index, Spec
from ann_sweep import sweep
from index import builds, default_cache, installed
from threadpoolctl import threadpool_limits

RECALLS = (0.90, 0.95, 0.98, 0.99)
CURVES = harness.RESULTS / "filter-curves.json"


def filtered(data: Dataset, n: int, queries: int) -> FilteredDataset:
    """The first n vectors and, under each predicate, the same questions."""
    base = np.ascontiguousarray(data.base[:n])
    found = predicates(base)
    asked = dict.fromkeys(found, data.queries["out of distribution"][:queries])
    return FilteredDataset(f"wordnet {n:,}", data.metric, base, asked, None, data.folder, found)


def enter(data: FilteredDataset) -> Any:
    """Tells an index the predicate of the queries that follow."""

    def restrict(index: Any, kind: str) -> None:
        index.restrict(data.predicates[kind])

    return restrict


def hybrid_queries(data: FilteredDataset, queries: Floats) -> tuple[list[Predicate], np.ndarray]:
    """50 predicates of all widths over both attributes, and which of them each query has (seed 2)."""
    rng = np.random.default_rng(2)
    columns = attributes(data.base)
    found = []
    for number, width in enumerate(rng.integers(100, 5000, 50).tolist()):
        low = int(rng.integers(0, 10_000 - width))
        found.append(Predicate.of(columns, ("free", "tied")[number % 2], low, low + width))
    return found, rng.integers(0, len(found), len(queries))


def one_by_one(
    index: Any, queries: Floats, found: list[Predicate], which: np.ndarray, anew: bool = False
) -> np.ndarray:
    """`anew`: nothing made ready for an earlier query is kept."""
    rows = []
    for query, place in zip(queries, which, strict=True):
        if anew:
            index.kept.clear()
        index.restrict(found[place])
        index.set({}, 1)
        rows.append(index.search_one(query[None])[0])
    return np.array(rows)


def together(index: Any, queries: Floats, found: list[Predicate], which: np.ndarray) -> np.ndarray:
    """One call: queries that share a predicate are answered together."""
    rows = np.empty((len(queries), K), dtype=np.int64)
    for place in np.unique(which):
        index.restrict(found[place])
        index.set({}, 1)
        rows[which == place] = index.search(queries[which == place])
    return rows


def hybrid(data: FilteredDataset, held: dict[Contender, Index], queries: Floats, rounds: int) -> Iterator[harness.Row]:
    """Both ways for each of ours, and faiss Flat; a line is printed for recall."""
    found, which = hybrid_queries(data, queries)
    calls: dict[str, Any] = {}
    for contender, index in held.items():
        calls[f"{contender.name} one by one"] = lambda index=index: one_by_one(index, queries, found, which)
        if contender.ours:
            name = f"{contender.name} one by one, each filter made anew"
            calls[name] = lambda index=index: one_by_one(index, queries, found, which, anew=True)
        calls[f"{contender.name} together"] = lambda index=index: together(index, queries, found, which)
    hits = dict.fromkeys(calls, 0.0)
    for name, call in calls.items():
        rows = call()
        for place, predicate in enumerate(found):
            some = which == place
            if some.any():
                hits[name] += predicate.truth(data.base, data.metric, queries[some]).recall(rows[some]) * some.sum()
    with threadpool_limits(1):
        seconds = harness.interleaved(calls, rounds, time.process_time)
    for name in calls:
        print(f"  hybrid, {name}: {len(queries) / seconds[name]:,.0f} q/s, recall {hits[name] / len(queries):.4f}")
    for contender in held:
        if contender.ours:
            case = f"{data.name}, hybrid batch ({contender.name})"
            rate = len(queries) / seconds[f"{contender.name} together"]
            own = [name for name in calls if name.startswith(f"{contender.name} one by one")]
            for peer in (*own, *(p for p in calls if p.startswith("faiss"))):
                version = contender.version if peer.startswith(contender.name) else _version(held, "faiss")
                yield harness.compare(case, "qps", "q/s", rate, (peer, version), len(queries) / seconds[peer], 1)


def _version(held: dict[Contender, Index], word: str) -> str:
    return next(contender.version for contender in held if contender.name.startswith(word))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3,000 vectors, 20 queries, two passes; writes nothing")
    parser.add_argument("--n", nargs="+", type=int, default=[20_000, 117_791], help="vectors")
    parser.add_argument("--queries", type=int, default=200, help="for each predicate")
    parser.add_argument("--ours", nargs="*", help="words in the names of our configurations (default: all)")
    parser.add_argument("--peers", nargs="*", help="words in the names of peers (default: all that are installed)")
    parser.add_argument("--passes", type=int, default=5, help="of which the median counts")
    parser.add_argument("--budget", type=float, default=0.1, help="CPU seconds for each effort in a pass")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder of vectors and built indexes")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    results: dict[str, ann_report.Result] = {}
    rows: list[harness.Row] = []
    with ExitStack() as stack:
        if options.quick:
            options.passes, options.budget, options.queries, options.n = 2, 0.005, 20, [3000]
            options.cache = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contenders = [*installed(ours_filtered(), options.ours), *installed(FILTER_PEERS, options.peers)]
        for whole in datasets(["wordnet"], options.cache, FASHION, 3000 if options.quick else None):
            for n in options.n:
                data = filtered(whole, n, options.queries)
                result, more = measure(data, whole, contenders, options)
                results[data.name] = result
                rows += [*ann_report.rows(data.name, result, (0.98,), ()), *more]
    lines = [line for name, result in results.items() for line in ann_report.tables(name, result, RECALLS)]
    if options.quick or not results:
        print("\n".join([*lines, harness.table(rows)]))
        return
    ann_report.write(CURVES, results)
    last = list(results.items())[-1]
    told = (
        "Queries a second of CPU time, one thread, at recall@10 of one call with all queries; ours with no knob turned."
    )
    notes = [told, "", *lines]
    harness.write("filter", "Filtered search", notes, rows, lambda figure: ann_report.draw(figure, *last))


def measure(
    data: FilteredDataset, whole: Dataset, contenders: list[Contender], options: argparse.Namespace
) -> tuple[ann_report.Result, list[harness.Row]]:
    print(f"{data.name}: {data.shape}", flush=True)
    found = builds(data, contenders, 1)
    measured = sweep(data, found, [1], options.passes, options.budget, 16 << 30, enter(data))
    how = f"Medians of {options.passes} passes in turns. {harness.machine()}."
    held = {}
    for contender, build in found.items():
        if contender.ours or contender.name == "faiss Flat":
            held[contender] = contender.make(Spec.of(data))
            held[contender].load(build.folder)
    queries = whole.queries["out of distribution"][: 1000 if not options.quick else 100]
    rows = list(hybrid(data, held, queries, min(options.passes, 3)))
    return {"shape": data.shape, "how": how, "indexes": measured}, rows


if __name__ == "__main__":
    main()
