"""Trying codecs on a sample of vectors: what they cost, and how much of what an exact search finds they find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag import _native
from rag.errors import InputError
from rag.index.learning import REDUCED, learns
from rag.index.native import CODECS, Codec
from rag.index.neighbours import as_points, filled
from rag.index.protocol import Metric
from rag.index.scan import ScanIndex

__all__ = ["DEPTHS", "SAMPLE", "TOP", "CodecProfile", "CodecTrial", "chosen", "row_sizes", "sample_size"]

SAMPLE = 20_000
SAMPLE_BYTES = 256 << 20
QUERIES = 500
TOP = 10
DEPTHS: Mapping[Codec, int] = {
    "int8": 42, "lvq8": 52, "lvq4x8": 62, "lvq4x4": 62,
    "rabitq1": 400, "rabitq2": 150, "rabitq4": 62, "leanvec": 150, "leanvec4": 62, "pq": 400,
}  # fmt: skip
"""How many the engine ranks again for 10 results, where a codec keeps two copies (native/codec.cpp)."""
_ROWS = 6400  # of which the average size of a row is taken


@dataclass(frozen=True, slots=True)
class CodecProfile:
    """What a codec costs and finds on these vectors."""

    codec: Codec
    bytes: float
    """Bytes a vector, everything included but what the codec has learned."""
    scanned: float
    """Bytes a vector that the first pass of a search reads."""
    recall: float
    """Share of the 10 nearest that a scan of the sample finds, at the codec's own depth of re-ranking."""
    expected: float
    """The same for all vectors: the mean of `recall`, which is too high if they are many more than the sample, and of
    that for the nearest few of the sample at a depth less in proportion, which is too low. Measured: with 200,000
    vectors 0.984 where a sample of 20,000 found 0.997 and 0.968."""


class CodecTrial:
    """A sample float32[n, dim] of `count` vectors, on which one codec after the other is tried.

    Without `queries`, vectors that are held back from it are looked for; their number, at most 500, and which they are,
    `rng` decides. `threads` 0 means all cores.
    """

    def __init__(
        self,
        sample: NDArray[np.float32],
        queries: NDArray[np.float32] | None,
        metric: Metric,
        count: int,
        rng: np.random.Generator,
        threads: int = 0,
    ) -> None:
        if queries is None:
            held = np.zeros(len(sample), bool)
            held[chosen(len(sample), min(QUERIES, len(sample) // 10), rng)] = True
            self._base, self._asked = sample[~held], sample[held] if held.any() else sample
        else:
            self._base, self._asked = sample, queries[chosen(len(queries), QUERIES, rng)]
        self._sampled, self._count = len(sample), count
        self._metric: Metric = metric
        self._threads = threads
        self._top = min(TOP, len(self._base))
        exact = filled(self._base, metric).search(self._asked, self._top, threads=threads)
        self._truth = np.sort(_scores(self._base, exact.ids, self._asked, metric))[:, ::-1]

    def __call__(self, codec: Codec) -> CodecProfile | None:
        """What the codec costs and finds; None when it cannot hold these numbers."""
        base, k = self._base, self._top
        index = ScanIndex(base.shape[1], self._metric, codec)
        try:
            index.add(np.arange(len(base)), base)
        except InputError:  # numbers beyond half precision: every number was checked to be finite before
            return None
        measured = expected = self._recall(index, k, 0)
        if self._count > self._sampled and codec in DEPTHS:
            # Of the sample, as many as are as near as the 10 nearest of all.
            few = max(min(round(TOP * self._sampled / self._count), k), 1)
            share = min(few / TOP, self._sampled / self._count)
            deep = self._recall(index, few, max(round(DEPTHS[codec] * share), few))
            expected = (measured + min(measured, deep)) / 2
        sizes = {part: size / len(base) for part, size in index.stats().bytes.items()}
        return CodecProfile(codec, sum(sizes.values()), _scanned(sizes), measured, expected)

    def _recall(self, index: ScanIndex, top: int, depth: int) -> float:
        ids = index.search(self._asked, top, rerank=depth, threads=self._threads).ids
        worst = self._truth[:, top - 1]
        least = worst - 1e-6 * np.abs(worst)  # of equals at the end of the list, any will do
        return float((_scores(self._base, ids, self._asked, self._metric) >= least[:, None]).mean())


def row_sizes(dim: int, metric: Metric) -> dict[Codec, tuple[float, float]]:
    """For each codec, bytes a vector and bytes that the first pass of a search reads of it; nothing is measured."""
    sizes = {}
    for codec in CODECS:
        parts = _native.VectorStore(dim, metric, codec, *_shapes_of_learned(codec, dim)).part_sizes(_ROWS)
        sizes[codec] = sum(parts.values()) / _ROWS, _scanned(parts) / _ROWS
    return sizes


def sample_size(dim: int) -> int:
    """How many vectors a sample has at most: 20,000, or what 256 MiB hold."""
    return max(min(SAMPLE, SAMPLE_BYTES // (4 * dim)), 2)


def chosen(count: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most so many of `count` rows, in order."""
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))


def _shapes_of_learned(codec: Codec, dim: int) -> list[NDArray[np.float32] | None]:
    """Zeros in place of what a codec learns."""
    if not learns(codec):
        return []
    turn = None
    if codec in REDUCED:
        turn = np.zeros((min(REDUCED[codec], dim), dim), np.float32)
    elif codec.startswith("rabitq"):
        turn = np.zeros((dim, dim), np.float32)
    centroids = np.zeros((-(-dim // 8), 256, 8), np.float32) if codec == "pq" else None
    return [np.zeros(dim, np.float32), turn, turn, centroids]


def _scanned(sizes: Mapping[str, float]) -> float:
    return sizes["codes"] + sizes.get("factors", 0.0)


def _scores(
    base: NDArray[np.float32], ids: NDArray[np.int64], queries: NDArray[np.float32], metric: Metric
) -> NDArray[np.float64]:
    """The exact score of each found vector, float64[q, k]."""
    out = np.empty(ids.shape)
    for row, (numbers, query) in enumerate(zip(ids, as_points(queries, metric), strict=True)):
        rows = as_points(base[numbers], metric).astype(np.float64)
        out[row] = -((rows - query) ** 2).sum(axis=1) if metric == "l2" else rows @ query.astype(np.float64)
    return out
