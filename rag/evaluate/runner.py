"""Runs whatever answers queries over a data set, and judges what comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TypeAlias

import numpy as np

from rag.errors import InputError
from rag.evaluate.datasets import Dataset
from rag.evaluate.diversity import is_diversity_measure, judge_diversity
from rag.evaluate.measures import ANSWER_MEASURES, check, judge_answers, judge_rankings
from rag.evaluate.report import Report, RunResult
from rag.types import Answer, ChunkStore, Hits, Query

__all__ = ["Runnable", "evaluate", "rankings"]

Runnable: TypeAlias = Callable[[Sequence[Query]], Sequence[Hits] | Sequence[Answer]]
"""From a batch of queries to the hits of each, or to the answer of each."""

BLOCK = 10_000  # chunks looked up at a time


def evaluate(
    runs: Mapping[str, Runnable],
    dataset: Dataset,
    measures: Sequence[str] = ("nDCG@10", "Recall@100"),
    *,
    batch: int = 32,
    clock: Callable[[], float] = time.perf_counter,
) -> Report:
    """Put the data set's queries to each run, `batch` at a time, and judge what it returns.

    Runs that return hits are judged by ranking measures (a document counts at its best chunk's rank), runs that return
    answers by EM and F1, over the queries with accepted answers. A query's latency is the time of its batch.
    Raises InputError for an unknown measure, or a run that returns what no measure or not every query asks for.
    """
    check(measures)
    if not runs or batch < 1:
        raise InputError("nothing to evaluate: no run is given" if not runs else f"batch is {batch}, expected from 1")
    ids = list(dataset.queries)
    results = {}
    for name, run in runs.items():
        found: list[Hits | Answer] = []
        latencies: dict[str, float] = {}
        seconds = 0.0
        for start in range(0, len(ids), batch):
            asked = ids[start : start + batch]
            begin = clock()
            returned = run([dataset.queries[query] for query in asked])
            taken = clock() - begin
            if len(returned) != len(asked):
                raise InputError(f"run {name!r} returned {len(returned)} results for {len(asked)} queries")
            found.extend(returned)
            latencies.update(dict.fromkeys(asked, taken))
            seconds += taken
        results[name] = RunResult(_judge(name, measures, dataset, found), latencies, seconds)
    return Report(dataset.name, dataset.split, len(dataset.documents), tuple(ids), tuple(measures), results)


def rankings(hits: Sequence[Hits]) -> list[list[str]]:
    """The ids of the documents whose chunks were hit, each at the rank of its best chunk."""
    documents: dict[tuple[int, int], str] = {}
    stores = {id(found.store): found.store for found in hits if len(found)}
    for key, store in stores.items():
        chunks = np.unique(np.concatenate([found.ids for found in hits if id(found.store) == key]))
        documents.update(((key, chunk), document) for chunk, document in _documents_of(store, chunks))
    return [list(dict.fromkeys(documents[id(found.store), i] for i in found.ids.tolist())) for found in hits]


def _documents_of(store: ChunkStore | None, chunks: np.typing.NDArray[np.int64]) -> Iterable[tuple[int, str]]:
    if store is None:
        raise InputError("hits without a store: their documents are not known", hint="pass store= to Hits")
    for start in range(0, len(chunks), BLOCK):
        for chunk in store.chunks(chunks[start : start + BLOCK]):
            yield chunk.id, chunk.document


def _judge(
    name: str, measures: Sequence[str], dataset: Dataset, found: Sequence[Hits | Answer]
) -> dict[str, dict[str, float]]:
    kinds = [kind for kind, _ in groupby(found, type)]
    if len(kinds) > 1 or not issubclass(kinds[0] if kinds else Hits, Hits | Answer):
        raise InputError(f"run {name!r} returned {', '.join(k.__name__ for k in kinds[:3])}, expected Hits or Answer")
    by_query = dict(zip(dataset.queries, found, strict=True))
    hits = {query: result for query, result in by_query.items() if isinstance(result, Hits)}
    answers = {query: result.text for query, result in by_query.items() if isinstance(result, Answer)}
    if answers:
        wanted = [measure for measure in measures if measure in ANSWER_MEASURES]
        values = judge_answers(wanted, dataset.answers, answers)
    else:
        wanted = [measure for measure in measures if measure not in ANSWER_MEASURES]
        ranked = dict(zip(hits, rankings(list(hits.values())), strict=True))
        values = judge_rankings([m for m in wanted if not is_diversity_measure(m)], dataset.qrels, ranked)
        values |= judge_diversity([m for m in wanted if is_diversity_measure(m)], dataset.aspects, ranked, hits)
    if not wanted:
        what = "answers" if answers else "hits"
        raise InputError(
            f"run {name!r} returned {what}, and none of the measures {', '.join(measures)} judges these",
            hint="EM and F1 judge answers, the others hits",
        )
    return values
