"""Attention masks of tokens that are computed among keys that are already there."""

from __future__ import annotations

from typing import Any

__all__ = ["additive_mask"]


def additive_mask(queries: Any, keys: int, window: int | None, dtype: Any) -> Any:
    """0 where the token at position `queries[i]` may look at position j < `keys`, else the least number of `dtype`.

    A token sees itself and what is before it, in a layer with a sliding window only the last `window` positions.
    Shape [1, 1, queries, keys]. Added to scores it serves eager attention and SDPA alike.
    """
    import torch

    at = queries[:, None]
    seen = torch.arange(keys, device=queries.device)[None]
    hidden = seen > at
    if window is not None:
        hidden |= seen <= at - window
    mask = torch.zeros(hidden.shape, dtype=dtype, device=queries.device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)[None, None]
