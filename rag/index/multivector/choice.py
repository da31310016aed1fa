"""Which kind of candidates serves a collection best, by measurement."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.index.filter import IdFilter
from rag.index.multivector.budget import DEPTHS, OTHERS, measure, stand_ins
from rag.index.multivector.candidates import AT_LEAST, WIDER, Stages
from rag.index.multivector.centroids import CentroidIndex, learn_centroids
from rag.index.multivector.first_stage import FirstStage
from rag.index.multivector.kmeans import sampled
from rag.index.multivector.store import TokenStore

__all__ = ["suited_generator"]

Generator: TypeAlias = Literal["mean", "fde", "centroids"]

_SAMPLE = 2000  # documents
_ASKED = 64
_RECALL = 0.95
_GROWN = 10  # times as many documents are planned for: the choice is made once
_QUERY_TOKENS = 16
_PRODUCTS = 36.0  # multiplications of MaxSim in a nanosecond
_LOOKED_UP = 0.9  # nanoseconds that a look at the table of a centroid takes
_SCANNED = {"mean": (128.0, 10.0), "fde": (640.0, 3.0)}
"""Bytes that a scan reads of a vector in the codec that suits it, and how many in a nanosecond."""


def suited_generator(store: TokenStore, rng: np.random.Generator, centroids: bool = True) -> Generator:
    """ "mean", "fde" or "centroids": what makes a search at recall 0.95 cheapest among ten times the documents, the
    comparison of its candidates included; without `centroids`, "mean" or "fde".

    Runs of tokens of 64 documents are searched for among at most 2,000 others.
    """
    ids = store.ids
    planned = _GROWN * len(ids)
    chosen = rng.choice(ids, min(len(ids), _SAMPLE + _ASKED), replace=False)
    own, sample = chosen[:_ASKED], np.sort(chosen[_ASKED:])
    documents = store.vectors(sample)
    queries = stand_ins(*store.vectors(own), sampled(documents[0], OTHERS, rng), rng)
    truth = store.maxsim(*queries, DEPTHS[-1], filter=IdFilter(sample)).ids
    compared = store.tokens / len(ids) * _QUERY_TOKENS * store.dim / _PRODUCTS  # the time for a document
    narrowing, looked_up = None, 0.0
    if centroids:
        narrowing = CentroidIndex(learn_centroids(documents[0], rng))
        narrowing.add(sample, *documents)
        looked_up = _LOOKED_UP * narrowing.rows / len(sample)
    costs: dict[Generator, float] = {}
    for generator in ("mean", "fde"):
        first = FirstStage(store.dim, generator, codec="float16", links=False)
        first.index.add(sample, first.vectors_of(*documents, None, False, 0))
        asked = first.vectors_of(*queries, None, True, 0)
        needed = _needed(Stages(first, narrowing), queries, asked, truth, len(sample), planned)
        size, speed = _SCANNED[generator]
        wide = min(WIDER * needed + AT_LEAST, planned)
        costs[generator] = needed * compared + wide * looked_up + planned * size / speed
    if narrowing is not None:
        needed = _needed(Stages(None, narrowing), queries, None, truth, len(sample), planned)
        costs["centroids"] = needed * compared + planned * looked_up
    return min(costs, key=costs.__getitem__)


def _needed(
    stages: Stages,
    queries: tuple[NDArray[np.float32], NDArray[np.int64]],
    vectors: NDArray[np.float32] | None,
    truth: NDArray[np.int64],
    sample: int,
    documents: int,
) -> int:
    curve = measure(lambda budget: stages.search(*queries, vectors, budget, None, 1, 0), truth, sample)
    return curve.candidates(10, _RECALL, documents) or documents
