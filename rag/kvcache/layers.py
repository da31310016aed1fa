"""A layer of a transformers cache that new keys and values are written into at given positions.

Imports torch and transformers; imported only when a model is at hand.
"""

from __future__ import annotations

from typing import Any

from transformers.cache_utils import DynamicLayer

__all__ = ["Reached", "ScatterLayer"]


class Reached(Exception):  # noqa: N818  # no error: it ends a forward pass at the layer where nothing more is needed
    """The keys and values of the last layer that was asked for are there."""


class ScatterLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [1, heads, tokens, d] of a prompt, partly filled, of which a forward pass computes some.

    `update` writes the new ones over what is there at `positions` int64[new] and returns those of the first `upto`
    tokens. `past` tokens are said to be there before, so that the library's own mask is right when the new ones are
    the tokens [past, upto).
    """

    def __init__(self, keys: Any, values: Any, positions: Any, past: int, upto: int, last: bool) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self.positions, self.past, self.upto, self.last = positions, past, upto, last

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self.keys.index_copy_(2, self.positions, key_states)
        self.values.index_copy_(2, self.positions, value_states)
        if self.last:
            raise Reached
        return self.keys[:, :, : self.upto], self.values[:, :, : self.upto]

    def get_seq_length(self) -> int:
        return self.past

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.past + query_length, 0
