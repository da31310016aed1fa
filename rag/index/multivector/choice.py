"""Which kind of candidates serves a collection best, by measurement."""

from __future__ import annotations

from functools import partial

import numpy as np

from rag.index.filter import IdFilter
from rag.index.multivector.budget import DEPTHS, measure, stand_ins
from rag.index.multivector.first_stage import FirstStage, Generator
from rag.index.multivector.store import TokenStore

__all__ = ["suited_generator"]

_SAMPLE = 2000  # documents
_ASKED = 64
_RECALL = 0.95
_QUERY_TOKENS = 16
_PRODUCTS = 36.0  # multiplications of MaxSim in a nanosecond
_SCANNED = {"mean": (128.0, 10.0), "fde": (640.0, 3.0)}
"""Bytes that a scan reads of a vector in the codec that suits it, and how many in a nanosecond."""


def suited_generator(store: TokenStore, rng: np.random.Generator) -> Generator:
    """ "mean" or "fde": whichever makes a search at recall 0.95 cheaper, the comparison of its candidates included.

    Runs of tokens of 64 documents are searched for among at most 2,000 others.
    """
    ids = store.ids
    chosen = rng.choice(ids, min(len(ids), _SAMPLE + _ASKED), replace=False)
    own, sample = chosen[:_ASKED], np.sort(chosen[_ASKED:])
    queries = stand_ins(*store.vectors(own), rng)
    truth = store.maxsim(*queries, DEPTHS[-1], filter=IdFilter(sample)).ids
    documents = store.vectors(sample)
    compared = store.tokens / len(ids) * _QUERY_TOKENS * store.dim / _PRODUCTS  # the time for a document
    costs: dict[Generator, float] = {}
    for generator in ("mean", "fde"):
        first = FirstStage(store.dim, generator, codec="float16", links=False)
        first.index.add(sample, first.vectors_of(*documents, None, False, 0))
        asked = first.vectors_of(*queries, None, True, 0)
        search = partial(first.search, asked, filter=None, recall=1, threads=0)
        curve = measure(search, truth, len(sample))
        needed = curve.candidates(10, _RECALL, len(ids)) or len(ids)
        size, speed = _SCANNED[generator]
        costs[generator] = needed * compared + len(ids) * size / speed
    return min(costs, key=costs.__getitem__)
