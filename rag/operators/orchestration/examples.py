"""Example sentences of routes in a native index, and how near a question comes to those of each route."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rag.encoders.protocol import Encoder
from rag.index import ScanIndex

__all__ = ["ExampleIndexes"]


class ExampleIndexes:
    """Encodes the examples of each route once for an encoder, when they are first needed. Safe to use from threads."""

    def __init__(self) -> None:
        self._built: dict[str, ScanIndex] = {}
        self._building = threading.Lock()

    def similarities(
        self, texts: Sequence[str], routes: Mapping[str, Sequence[str]], encoder: Encoder
    ) -> NDArray[np.float64]:
        """float64[texts, routes]: the cosine of each text and the nearest example of each route."""
        index = self._index([example for examples in routes.values() for example in examples], encoder)
        route_of = np.repeat(np.arange(len(routes)), [len(examples) for examples in routes.values()])
        found = index.search(encoder.encode_queries(list(texts)), len(index))
        best = np.full((len(texts), len(routes)), -1.0)
        rows = np.repeat(np.arange(len(texts)), len(index))
        np.maximum.at(best, (rows, route_of[found.ids.ravel()]), found.scores.ravel())
        return best

    def _index(self, examples: list[str], encoder: Encoder) -> ScanIndex:
        with self._building:
            index = self._built.get(encoder.fingerprint)
            if index is None:
                index = ScanIndex(encoder.dim, "cosine")
                index.add(np.arange(len(examples)), encoder.encode_queries(examples))
                self._built[encoder.fingerprint] = index
        return index
