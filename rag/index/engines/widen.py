"""From the results that an engine gives to the ones that the protocol asks for, by asking for more of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rag.index.merge import merge_matches
from rag.index.protocol import Matches

__all__ = ["contained", "nothing", "widened"]

_MORE = 4


def widened(
    search: Callable[[NDArray[np.float32], int], Matches],
    queries: NDArray[np.float32],
    k: int,
    *,
    most: int,
    allowed: NDArray[np.int64] | None = None,
) -> tuple[Matches, NDArray[np.bool_]]:
    """The k best for each query, ties by the smaller id, of what `search(queries, m)` finds, among `allowed` ids.

    An engine breaks ties as it likes and knows nothing of `allowed`, so m grows, up to `most`, until k results are
    there and the last one found is worse than them. Returns also bool[q]: for which queries `most` was not enough.
    """
    out = nothing(len(queries), k)
    open_rows = np.arange(len(queries))
    m = min(k + 1, most)
    while len(open_rows) and m:
        found = search(queries[open_rows], m)
        keep = found.ids >= 0 if allowed is None else contained(found.ids, allowed)
        kept = Matches(np.where(keep, found.ids, -1), np.where(keep, found.scores, np.float32(-np.inf)))
        best = merge_matches([kept], k)
        out.ids[open_rows], out.scores[open_rows] = best.ids, best.scores
        # With fewer than k results, the last of them is -inf, and nothing is worse than that.
        done = (found.ids[:, -1] < 0) | (found.scores.min(axis=1) < best.scores[:, -1])
        open_rows = open_rows[~done]
        if m == most:
            break
        m = min(_MORE * m, most)
    short = np.zeros(len(queries), bool)
    short[open_rows] = True
    return out, short


def nothing(queries: int, k: int) -> Matches:
    """Results of a search that found none."""
    return Matches(np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32))


def contained(ids: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which ids (of any shape) are among sorted ones."""
    if not len(among):
        return np.zeros(ids.shape, bool)
    at = np.searchsorted(among, ids)
    return np.asarray(among[np.minimum(at, len(among) - 1)] == ids)
