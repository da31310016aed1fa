"""What a set of vectors is like, as far as it decides how it is best indexed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError
from rag.index.inputs import as_vectors, check_count
from rag.index.native import CODECS
from rag.index.neighbours import NOTHING, Progress, as_points, filled, local_dimension, nearest_others
from rag.index.protocol import Metric
from rag.index.trial import TOP, CodecProfile, CodecTrial, chosen, sample_size

__all__ = ["Profile", "QueryProfile", "Rows", "profile"]

PAIRED = 10_000  # of the sample, those whose neighbours among each other are looked for
SPECTRUM = 4096  # rows or numbers: the smaller side of the matrix whose spectrum is computed
ASKED = 1000
SUCCESSIONS = 1000
BLOCK_NUMBERS = 1 << 22

NEAREST = (20, 100)
"""The local dimension is averaged over this range of neighbours, as Levina and Bickel advise."""
SHARES = (0.90, 0.95, 0.99)


class Rows(Protocol):
    """Vectors that are read part by part, by their row numbers, as a NumPy array lets one do."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class QueryProfile:
    """How far queries lie from the vectors, compared with how far these lie from each other."""

    count: int
    distance: float
    """Median distance of a query to its 10 nearest, over that of a vector to its 10 nearest others; about 1 when
    queries come from where the vectors come from."""
    far: float
    """Share of the queries that are farther from their 10 nearest than 95 % of the vectors; then about 0.05."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The figures of a set of vectors. `count`, `norm_*` and `duplicates` are of all, the others of a sample.

    Distances are Euclidean, of unit vectors under cosine.
    """

    count: int
    dim: int
    metric: Metric
    sampled: int
    norm_mean: float
    norm_variation: float
    """Standard deviation over mean."""
    norm_peak: float
    """Largest over median; 0 when more than half are zeros."""
    duplicates: float
    """Share of vectors that repeat another, number by number."""
    succession: float
    """Mean distance of a vector to the next one, over that of two drawn by chance: about 1 without order, and smaller
    the more they are sorted by what they mean."""
    local_dimension: float
    """How many directions a neighbourhood spreads over (see `rag.index.neighbours.local_dimension`), averaged over
    points and 20 to 100 neighbours. Beyond 10 it comes out low, by a quarter at 20. 0 without different ones."""
    local_range: tuple[float, float, float]
    """Of single vectors, at 100 neighbours: the 10th, 50th and 90th percentile."""
    participation: float
    """(sum of variances)^2 / sum of their squares over the principal directions: how many carry the whole."""
    directions: tuple[int, int, int]
    """Principal directions that hold 90, 95 and 99 % of the variance."""
    hubness: float
    """Skewness of how often a vector is among the 10 nearest of others: 0 if all are alike, above 1 when a few are
    everybody's neighbours (Radovanovic et al., JMLR 2010)."""
    contrast: float
    """Mean distance over mean distance to the nearest (He et al., ICML 2012): near 1, neighbours mean nothing."""
    codecs: tuple[CodecProfile, ...]
    """Those that can hold these numbers."""
    queries: QueryProfile | None
    """None when none were given; then recall is that of vectors that were held back."""


def profile(
    vectors: NDArray[Any] | Rows,
    queries: NDArray[np.float32] | None = None,
    metric: Metric = "cosine",
    *,
    seed: int = 0,
    threads: int = 0,
    progress: Progress | None = None,
) -> Profile:
    """Look at vectors float32[n, dim], and perhaps at queries float32[m, dim] like those that will be asked.

    All vectors are read once, in blocks; the figures are of at most 20,000 and 1,000 queries (fewer vectors when these
    take more than 256 MiB), chosen by the seed. `threads` 0 means all cores.
    Raises InputError for NaN and infinity, vectors of zeros under cosine, fewer than two different vectors, no queries
    where there is an array of them, and a wrong dimension.
    """
    rng = np.random.default_rng(check_count(seed, "seed"))
    if len(vectors.shape) != 2 or 0 in vectors.shape:
        raise InputError(f"vectors have shape {vectors.shape}, expected (n, dim) with at least 2 vectors")
    count, dim = vectors.shape
    if count < 2:
        raise InputError("there is one vector, and nothing to compare it with", hint="a profile needs at least 2")
    asked = None if queries is None else _checked_queries(queries, dim, metric)
    norms, keys = _read_all(vectors, metric, progress)
    rows = chosen(count, sample_size(dim), rng)
    sample = _read(vectors, rows)
    points = as_points(sample, metric)
    _, first = np.unique(keys[rows], return_index=True)
    distinct = points[np.sort(first)]
    # Copies of each other under cosine differ by rounding.
    if not (distinct.max(axis=0) - distinct.min(axis=0)).max() > NOTHING * np.abs(distinct).max():
        same = "point in the same direction" if metric == "cosine" else "are the same"
        raise InputError(f"all {len(sample)} vectors that were looked at {same}, so that none is nearer than another")

    paired = distinct[chosen(len(distinct), PAIRED, rng)]
    k = min(NEAREST[1], len(paired) - 1)
    own = np.arange(len(paired))
    near = nearest_others(filled(paired), paired, own, k, threads=threads, progress=progress)
    distances = np.sqrt(-near.scores.astype(np.float64))
    ids = near.ids
    if metric == "ip":
        ids = nearest_others(filled(paired, "ip"), paired, own, min(TOP, k), threads=threads).ids
    shuffled = paired[rng.permutation(len(paired))]
    typical = float(_distances(shuffled, np.roll(shuffled, 1, axis=0)).mean())
    local = local_dimension(distances)
    share, directions = _spectrum(points[:SPECTRUM] if dim > SPECTRUM else points)
    median = float(np.median(norms))
    return Profile(
        count=count,
        dim=dim,
        metric=metric,
        sampled=len(sample),
        norm_mean=float(norms.mean()),
        norm_variation=float(norms.std() / norms.mean()),
        norm_peak=float(norms.max() / median) if median > 0 else 0.0,
        duplicates=1.0 - len(np.unique(keys)) / count,
        succession=_succession(vectors, metric, typical, rng),
        local_dimension=_averaged_dimension(distances),
        local_range=_three(np.percentile(local, (10, 50, 90))),
        participation=share,
        directions=directions,
        hubness=_skewness(np.bincount(ids[:, :TOP].ravel(), minlength=len(paired))),
        contrast=typical / max(float(distances[:, 0].mean()), NOTHING * typical),
        codecs=_codecs(CodecTrial(sample, asked, metric, count, rng, threads), progress),
        queries=None if asked is None else _distant(sample, asked, metric, rng, threads),
    )


def _checked_queries(queries: NDArray[np.float32], dim: int, metric: Metric) -> NDArray[np.float32]:
    asked = as_vectors(queries, dim, "queries")
    if not len(asked):
        raise InputError("there are no queries", hint="leave them out, and vectors are held back to be asked for")
    _check(asked, 0, metric, "query")
    return asked


def _check(rows: NDArray[np.float32], start: int, metric: Metric, what: str = "vector") -> None:
    bad = ~np.isfinite(rows)
    if bad.any():
        row, position = np.argwhere(bad)[0]
        raise InputError(f"{what} {start + row} holds {rows[row, position]} at position {position}")
    if metric == "cosine" and not (there := rows.any(axis=1)).all():
        raise InputError(f"{what} {start + int(np.argmin(there))} is all zeros, which has no direction under cosine")


def _read(vectors: NDArray[Any] | Rows, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return as_vectors(vectors[rows], vectors.shape[1])


def _read_all(
    vectors: NDArray[Any] | Rows, metric: Metric, progress: Progress | None
) -> tuple[NDArray[np.float64], NDArray[np.uint64]]:
    """Check every vector; its length, and a number that only copies of it share (but for one chance in 2^32)."""
    count, dim = vectors.shape
    factors = np.random.default_rng(0).integers(0, 2**64, dim, dtype=np.uint64, endpoint=False)
    norms, keys = np.empty(count), np.empty(count, np.uint64)
    step = max(BLOCK_NUMBERS // dim, 1)
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        rows = _read(vectors, np.arange(part.start, part.stop))
        _check(rows, start, metric)
        norms[part] = np.linalg.norm(rows.astype(np.float64), axis=1)
        bits = (rows + np.float32(0)).view(np.uint32).astype(np.uint64)  # -0 + 0 is 0
        keys[part] = (bits * factors).sum(axis=1, dtype=np.uint64)
        if progress is not None:
            progress("reading", part.stop, count)
    return norms, keys


def _distances(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(left.astype(np.float64) - right, axis=1))


def _three(values: Sequence[Any] | NDArray[Any]) -> tuple[float, float, float]:
    low, middle, high = (float(value) for value in values)
    return low, middle, high


def _succession(vectors: NDArray[Any] | Rows, metric: Metric, typical: float, rng: np.random.Generator) -> float:
    rows = chosen(vectors.shape[0] - 1, SUCCESSIONS, rng)
    here, there = (as_points(_read(vectors, numbers), metric) for numbers in (rows, rows + 1))
    return float(_distances(here, there).mean() / typical)


def _averaged_dimension(distances: NDArray[np.float64]) -> float:
    """One estimate for all points and 20 to 100 neighbours: inverses are averaged, which are unbiased."""
    k = distances.shape[1]
    apart = distances[distances[:, 0] > NOTHING * distances[:, -1]]
    if k < 2 or not len(apart):
        return 0.0
    logs = np.log(apart)
    before = np.cumsum(logs, axis=1)[:, :-1] / np.arange(1, k)
    inverses = (logs[:, 1:] - before)[:, min(NEAREST[0], k) - 2 :]
    mean = float(inverses.mean())
    return 1.0 / mean if mean > 0 else 0.0


def _spectrum(points: NDArray[np.float32]) -> tuple[float, tuple[int, int, int]]:
    """The participation ratio, and how many principal directions hold each of SHARES."""
    centred = points - points.mean(axis=0, dtype=np.float64).astype(np.float32)
    matrix = centred.T @ centred if points.shape[1] <= SPECTRUM else centred @ centred.T
    variances = np.maximum(np.linalg.eigvalsh(matrix.astype(np.float64))[::-1], 0.0)
    held = np.cumsum(variances) / variances.sum()
    counts = np.searchsorted(held, np.asarray(SHARES) - 1e-9) + 1
    low, middle, high = (int(n) for n in counts)
    return float(variances.sum() ** 2 / (variances**2).sum()), (low, middle, high)


def _skewness(counts: NDArray[np.int64]) -> float:
    spread = counts.std()
    return float((((counts - counts.mean()) / spread) ** 3).mean()) if spread > 0 else 0.0


def _distant(
    sample: NDArray[np.float32],
    queries: NDArray[np.float32],
    metric: Metric,
    rng: np.random.Generator,
    threads: int,
) -> QueryProfile:
    """Under ip, where the length of a query changes nothing, directions are compared."""
    geometry: Metric = "l2" if metric == "l2" else "cosine"
    there = sample[sample.any(axis=1)] if metric == "ip" else sample
    asked = queries[queries.any(axis=1)] if metric == "ip" else queries
    points = as_points(there[chosen(len(there), PAIRED, rng)], geometry)
    asked = as_points(asked[chosen(len(asked), ASKED, rng)], geometry)
    if len(points) < 2 or not len(asked):
        return QueryProfile(len(queries), 0.0, 0.0)
    index, k = filled(points), min(TOP, len(points) - 1)
    some = chosen(len(points), ASKED, rng)
    own = nearest_others(index, points[some], some, k, threads=threads).scores
    other = index.search(asked, k, threads=threads).scores
    usual, unusual = (np.sqrt(-scores.astype(np.float64)).mean(axis=1) for scores in (own, other))
    ratio = float(np.median(unusual) / max(float(np.median(usual)), 1e-30))
    return QueryProfile(len(queries), ratio, float((unusual > np.quantile(usual, 0.95)).mean()))


def _codecs(trial: CodecTrial, progress: Progress | None) -> tuple[CodecProfile, ...]:
    found = []
    for done, codec in enumerate(CODECS):
        if (figures := trial(codec)) is not None:
            found.append(figures)
        if progress is not None:
            progress("codecs", done + 1, len(CODECS))
    return tuple(found)
