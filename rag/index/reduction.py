"""Fewer numbers a vector, so that inner products with queries change least: pairs of matrices, one for each side.

LeanVec (Tepper et al., TMLR 2024): with A for queries and B for vectors, (Aq).(Bx) shall be near to q.x. What is lost
is || Q A'B X' - Q X' ||^2 over queries Q and vectors X, which depends on the second moments of both alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["REDUCTIONS", "Matrices", "Reduction", "loss", "reduced"]

Reduction: TypeAlias = Literal["pca", "es", "frank-wolfe", "sphering"]
"""- pca: the principal directions of the vectors, for both sides.
- es (eigenvector search): those of a blend of both second moments, with the share that loses least, for both sides.
- frank-wolfe: a matrix for each side, of spectral norm 1 at most, by turns, from es on.
- sphering (GleanVec: Tepper et al., 2024): the pair that loses least of all, in closed form.
"""

REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)

_RIDGE = 1e-3
_PROBES = 16
_MOST_STEPS, _STILL, _SLOWER = 500, 1e-3, 0.999
_GOLDEN = (5**0.5 - 1) / 2

Matrix: TypeAlias = NDArray[np.float64]


class Matrices(NamedTuple):
    """float64[d, dim] each: for stored vectors and for queries."""

    base: Matrix
    query: Matrix


def reduced(vectors: Matrix, queries: Matrix, count: int, how: Reduction) -> Matrices:
    """`count` directions for vectors and queries of these second moments float64[dim, dim], both positive.

    Few queries say nothing about most directions: a ridge, a thousandth of their mean moment, lets the vectors decide
    there. Deterministic.
    """
    queries = queries + _RIDGE * np.trace(queries) / len(queries) * np.eye(len(queries))
    if how == "pca":
        return _both(_leading(vectors, count))
    if how == "es":
        return _both(_blend(vectors, queries, count))
    if how == "frank-wolfe":
        return _by_turns(vectors, queries, _both(_blend(vectors, queries, count)))
    return _sphering(vectors, queries, count)


def loss(vectors: Matrix, queries: Matrix, matrices: Matrices) -> float:
    """The share of all squared inner products that is lost, 0 to 1 (LeanVec, section 2)."""
    base, query = matrices
    across = np.einsum("ij,ij->", query @ queries @ vectors, base)
    within = np.einsum("ij,ji->", query @ queries @ query.T, base @ vectors @ base.T)
    whole = np.einsum("ij,ji->", queries, vectors)
    return float((within - 2 * across + whole) / whole)


def _both(directions: Matrix) -> Matrices:
    return Matrices(directions, directions)


def _leading(moment: Matrix, count: int) -> Matrix:
    """The eigenvectors of the largest eigenvalues, as rows, the largest first."""
    return np.ascontiguousarray(np.linalg.eigh(moment)[1][:, ::-1].T[:count])


def _blend(vectors: Matrix, queries: Matrix, count: int) -> Matrix:
    """Algorithm 2 of LeanVec; the share is found by golden sections."""

    def directions(share: float) -> Matrix:
        return _leading(share * vectors / np.trace(vectors) + (1 - share) * queries / np.trace(queries), count)

    def lost(share: float) -> float:
        return loss(vectors, queries, _both(directions(share)))

    inside = _golden(lost, 0.0, 1.0)
    return directions(min((0.0, inside, 1.0), key=lost))


def _golden(f: Callable[[float], float], low: float, high: float) -> float:
    """Where f, which falls and then rises, is least."""
    one, two = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    f_one, f_two = f(one), f(two)
    for _ in range(_PROBES):
        if f_one < f_two:
            high, two, f_two = two, one, f_one
            one = high - _GOLDEN * (high - low)
            f_one = f(one)
        else:
            low, one, f_one = one, two, f_two
            two = low + _GOLDEN * (high - low)
            f_two = f(two)
    return one if f_one < f_two else two


def _by_turns(vectors: Matrix, queries: Matrix, start: Matrices) -> Matrices:
    """Algorithm 1 of LeanVec: Frank-Wolfe steps for one side, then for the other; the best pair on the way."""
    base, query = start
    best, least = start, loss(vectors, queries, start)
    last = least
    for step in range(1, _MOST_STEPS):
        weight = 1 / (step + 1) ** _SLOWER
        slope = (base @ vectors @ base.T) @ query @ queries - base @ vectors @ queries
        query = (1 - weight) * query + weight * _polar(-slope)
        slope = (query @ queries @ query.T) @ base @ vectors - query @ queries @ vectors
        base = (1 - weight) * base + weight * _polar(-slope)
        now = loss(vectors, queries, Matrices(base, query))
        if now < least:
            best, least = Matrices(base, query), now
        if step > 2 and abs(last - now) <= _STILL * last:
            break
        last = now
    return best


def _polar(matrix: Matrix) -> Matrix:
    """U V' of U S V': of all matrices of spectral norm 1 the one that lies farthest along this one."""
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(left @ right)


def _sphering(vectors: Matrix, queries: Matrix, count: int) -> Matrices:
    """Where queries are spread evenly, the principal directions lose least; each side then gets an equal share of the
    scale of a direction, since codes err in proportion to both."""
    values, axes = np.linalg.eigh(queries)
    root, inverse = (axes * np.sqrt(values)) @ axes.T, (axes / np.sqrt(values)) @ axes.T
    turn = _leading(root @ vectors @ root, count)
    base, query = turn @ root, turn @ inverse
    spread = np.einsum("rd,de,re->r", base, vectors, base), np.einsum("rd,de,re->r", query, queries, query)
    balance = (np.maximum(spread[1], 1e-30) / np.maximum(spread[0], 1e-30)) ** 0.25
    return Matrices(base * balance[:, None], query / balance[:, None])
