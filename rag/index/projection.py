"""Links between vectors that answer the same queries, for queries that are unlike the vectors they look for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_ROW", "project"]

NO_ROW = 2**32 - 1

_SHARE = 0.6
"""Of a row's places for links go to projected ones at most; near vectors keep the rest, so that all stay reachable."""


def project(links: NDArray[np.uint32], answers: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Links uint32[n, room] of which up to 60 % lead to rows that are found together, the others are the given ones.

    answers: int64[q, m], the rows of the m best of each query. Two rows are the nearer the more queries find both, in
    relation to the square root of how many find the one that is linked to. This projects the bipartite graph of queries
    and their answers onto the answers (RoarGraph: M. Chen et al., PVLDB 17(11) 2024, section 4), but for all answers of
    a query in place of its best one only: queries of attention have few best ones in common. A place without a link
    holds NO_ROW, behind the others.
    """
    rows, room = links.shape
    most = int(room * _SHARE)
    pairs = (answers[:, :, None] * rows + answers[:, None, :])[:, ~np.eye(answers.shape[1], dtype=bool)]
    code, together = np.unique(pairs, return_counts=True)
    source, target = np.divmod(code, rows)
    found = np.bincount(answers.ravel(), minlength=rows)
    order = np.lexsort((-together / np.sqrt(found[target]), source))
    source, target = source[order], target[order]
    place = np.arange(len(source)) - np.searchsorted(source, source)
    first = place < most
    projected = np.full((rows, most), NO_ROW, np.uint32)
    projected[source[first], place[first]] = target[first]
    return np.ascontiguousarray(_without_repeats(np.concatenate([projected, links], 1))[:, :room])


def _without_repeats(links: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Each row's links once, in their order, the free places at the end."""
    order = np.argsort(links, 1, kind="stable")
    ranked = np.take_along_axis(links, order, 1)
    again = np.zeros(links.shape, bool)
    np.put_along_axis(again, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
    left = np.where(again, np.uint32(NO_ROW), links)
    return np.take_along_axis(left, np.argsort(left == NO_ROW, 1, kind="stable"), 1)
