"""Hubs: vectors that come near to far too many queries, how common they are, and scores that are put right for them.

In many dimensions a few vectors are among the nearest of a great many queries and keep out what belongs there, above
all where queries lie apart from what is searched (Radovanovic et al., JMLR 2010). Known queries, and known vectors,
show which: what is near to all of them says little when it is near to one more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError, did_you_mean
from rag.index.inputs import as_vectors
from rag.index.neighbours import as_points, filled

__all__ = ["HUBNESS_KINDS", "HubReport", "HubnessBanks", "HubnessKind", "hub_report"]

HubnessKind: TypeAlias = Literal["csls", "inverted_softmax", "gallery_softmax", "dual_softmax"]
HUBNESS_KINDS: tuple[HubnessKind, ...] = get_args(HubnessKind)

_BLOCK = 512
_ITSELF = 1 - 1e-5
"""A cosine from which a vector of the bank counts as the vector itself."""
_HUBS = 0.01


@dataclass(frozen=True, slots=True)
class HubReport:
    """How unevenly the places among the k nearest of some queries are given to the vectors.

    `skewness` of how often a vector is among them: about 0 to 1 without hubs, more with them. `hub_share`: share of all
    places that the most frequent hundredth of the vectors takes. `never`: share of the vectors that are never among
    them. `hubs` int64: the ids of the most frequent, first the largest; `places` int64: how often each of these is.
    """

    skewness: float
    hub_share: float
    never: float
    hubs: NDArray[np.int64]
    places: NDArray[np.int64]


def hub_report(found: NDArray[np.int64], ids: NDArray[np.int64], most: int = 10) -> HubReport:
    """The report of `found` int64[q, k], the nearest of some queries (-1: none), among vectors with `ids` int64[n].

    Raises InputError when there are no vectors or no queries.
    """
    places = found[found >= 0]
    if not len(ids) or not len(places):
        raise InputError(f"there are {len(ids)} vectors and {len(places)} places among the nearest: nothing to report")
    order = np.sort(ids)
    counts = np.bincount(np.searchsorted(order, places), minlength=len(order))
    frequent = np.argsort(-counts, kind="stable")
    leading = max(int(len(order) * _HUBS), 1)
    spread = counts.std()
    return HubReport(
        skewness=float(((counts - counts.mean()) ** 3).mean() / spread**3) if spread > 0 else 0.0,
        hub_share=float(counts[frequent[:leading]].sum() / len(places)),
        never=float((counts == 0).mean()),
        hubs=order[frequent[:most]],
        places=counts[frequent[:most]],
    )


class HubnessBanks:
    """Known queries and known vectors of a collection, by which cosines are put right: score = cosine - bias(vector).

    `queries` float32[b, dim] and `items` float32[i, dim] of any length but zero; a bank that the kind does not need may
    be empty. Kinds:

    - "csls": half the mean cosine with the `neighbours` nearest queries of the bank (Lample et al., ICLR 2018). What it
      takes from the query's side is the same for all hits, and left out.
    - "inverted_softmax": log of the mean of exp(beta_queries * cosine) over the queries, divided by beta_queries (Smith
      et al., ICLR 2017; QB-Norm: Bogolin et al., CVPR 2022).
    - "gallery_softmax": the same over the items with beta_items.
    - "dual_softmax": both, (log + log) / (beta_queries + beta_items) (dual banks: Wang et al., EMNLP 2023).

    A vector is not held against itself. Raises InputError for a needed bank that is empty, vectors of zeros, NaN, and
    settings out of range.
    """

    def __init__(
        self,
        queries: NDArray[np.float32],
        items: NDArray[np.float32],
        kind: HubnessKind = "csls",
        *,
        neighbours: int = 10,
        beta_queries: float = 20.0,
        beta_items: float = 20.0,
    ) -> None:
        if kind not in HUBNESS_KINDS:
            raise InputError(f"there is no way {kind!r} to correct for hubs", hint=did_you_mean(kind, HUBNESS_KINDS))
        if neighbours < 1 or not beta_queries > 0 or not beta_items > 0:
            raise InputError(
                f"neighbours is {neighbours}, the betas are {beta_queries} and {beta_items}: all must be above 0"
            )
        self.kind = kind
        self._betas = beta_queries, beta_items
        dim = queries.shape[-1] if len(queries) else items.shape[-1]
        self._queries = _bank(queries, dim, "queries", needed=kind != "gallery_softmax")
        self._items = _bank(items, dim, "items", needed=kind in ("gallery_softmax", "dual_softmax"))
        self._index = filled(self._queries, "ip") if kind == "csls" else None
        self._neighbours = min(neighbours, len(self._queries))

    def bias(self, vectors: NDArray[np.float32], *, threads: int = 0) -> NDArray[np.float32]:
        """What is taken from the cosines of each of vectors float32[n, dim]: float32[n]. Large for hubs.

        It depends on the vector and the banks alone. Raises InputError for NaN and a wrong dimension.
        """
        points = as_points(as_vectors(vectors, self._queries.shape[1], "vectors"), "cosine")
        if self._index is not None:
            return np.asarray(self._index.search(points, self._neighbours, threads=threads).scores.mean(axis=1) / 2)
        beta_queries, beta_items = self._betas
        if self.kind == "inverted_softmax":
            return np.asarray(_log_mean(points, self._queries, beta_queries) / beta_queries, np.float32)
        if self.kind == "gallery_softmax":
            return np.asarray(_log_mean(points, self._items, beta_items) / beta_items, np.float32)
        both = _log_mean(points, self._queries, beta_queries) + _log_mean(points, self._items, beta_items)
        return np.asarray(both / (beta_queries + beta_items), np.float32)


def _bank(vectors: NDArray[np.float32], dim: int, what: str, *, needed: bool) -> NDArray[np.float32]:
    if not len(vectors):
        if needed:
            raise InputError(f"the bank of {what} is empty", hint="give it some, or choose another kind")
        return np.empty((0, dim), np.float32)
    matrix = as_vectors(vectors, dim, what)
    if not np.isfinite(matrix).all() or not matrix.any(axis=1).all():
        raise InputError(f"the bank of {what} holds NaN, infinity, or a vector of zeros")
    return as_points(matrix, "cosine")


def _log_mean(points: NDArray[np.float32], bank: NDArray[np.float32], beta: float) -> NDArray[np.float64]:
    """log of the mean over the bank of exp(beta * cosine), without the point itself, float64[n]."""
    result = np.empty(len(points), np.float64)
    for start in range(0, len(points), _BLOCK):
        cosines = (points[start : start + _BLOCK] @ bank.T).astype(np.float64)
        others = cosines < _ITSELF
        largest = np.where(others, cosines, -1).max(axis=1)
        powers = np.where(others, np.exp(beta * (cosines - largest[:, None])), 0).sum(axis=1)
        counted = np.maximum(others.sum(axis=1), 1)
        result[start : start + _BLOCK] = beta * largest + np.log(np.maximum(powers, 1e-300) / counted)
    return result
