"""A layer of a transformers cache that holds fewer tokens than it has read.

Imports torch and transformers; imported only when a model is at hand.
"""

from __future__ import annotations

from typing import Any

from transformers.cache_utils import DynamicLayer

from rag.errors import ModelError
from rag.kvcache.attention.interface import is_attending, mark

__all__ = ["CompressedLayer"]


class CompressedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [1, heads, m, d] that stand for `read` tokens; what is generated is added behind them.

    bias: float32[heads, m], or None. The length that the layer tells is that of the text, so that positions and masks
    of other layers go on as if nothing was compressed.
    """

    is_croppable = False

    def __init__(self, keys: Any, values: Any, bias: Any, read: int, config: Any) -> None:
        super().__init__()
        self.keys, self.values, self.bias, self.config = keys, values, bias, config
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self.dropped = read - keys.shape[-2]

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not is_attending(self.config):
            raise ModelError(
                "the cache is compressed, and the model's attention knows nothing of it",
                hint="with attending(model): model.generate(...)",
            )
        keys, values = super().update(key_states, value_states)
        return mark(keys, self.bias), values

    def get_seq_length(self) -> int:
        return int(self.keys.shape[-2] + self.dropped)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0
