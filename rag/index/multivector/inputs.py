"""Checks of token sets that callers hand over."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError
from rag.index.inputs import as_ids, as_vectors

__all__ = ["as_token_sets"]


def as_token_sets(tokens: Any, offsets: Any, dim: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Tokens float32[t, dim] and offsets int64[n + 1]: set i is tokens[offsets[i]:offsets[i + 1]], at least one."""
    matrix, places = as_vectors(tokens, dim, "tokens"), as_ids(offsets, "offsets")
    if not len(places) or places[0] != 0 or places[-1] != len(matrix):
        raise InputError(
            f"offsets do not lead from 0 to {len(matrix)}, the number of tokens",
            hint="set i is tokens[offsets[i]:offsets[i + 1]], and of n sets there are n + 1 offsets",
        )
    steps = np.diff(places)
    if len(steps) and steps.min() < 1:
        at = int(np.argmax(steps < 1))
        if steps[at] == 0:
            raise InputError(f"set {at} has no tokens", hint="leave out what has no tokens")
        raise InputError(f"offsets fall from {places[at]} to {places[at + 1]}", hint="they must grow")
    return matrix, places
