"""One ranking from several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rag.errors import InputError
from rag.index.inputs import check_k
from rag.index.protocol import Matches

__all__ = ["merge_matches"]


def merge_matches(matches: Sequence[Matches], k: int) -> Matches:
    """The k best for each query among results of several indexes for the same queries; ties go to the smaller id.

    Takes Matches [q, any k] each, over disjoint ids. Returns ids int64[q, k] and scores float32[q, k], filled up
    with -1 and -inf. Raises InputError when there are none, or their numbers of queries differ.
    """
    check_k(k)
    if not matches or len({len(m.ids) for m in matches}) > 1:
        raise InputError(f"results for {[len(m.ids) for m in matches]} queries cannot be merged")
    ids = np.concatenate([m.ids for m in matches], axis=1)
    scores = np.concatenate([m.scores for m in matches], axis=1)
    # Filled-up places have score -inf, which no vector has, so they sort last.
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    missing = ((0, 0), (0, k - order.shape[1]))
    return Matches(
        np.pad(np.take_along_axis(ids, order, axis=1), missing, constant_values=-1),
        np.pad(np.take_along_axis(scores, order, axis=1), missing, constant_values=-np.inf),
    )
