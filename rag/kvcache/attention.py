"""Attention of a forward pass, summed over groups of keys while the model computes it.

Imports torch; imported only when a model is at hand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["AttentionSums"]

_ROWS = 128
"""Rows of attention weights that are in memory at a time, where the model does not make them all itself."""


class AttentionSums(TorchFunctionMode):  # type: ignore[misc]
    """A context in which the attention of a model's layers is summed over groups of keys, for all queries.

    Args:
        groups: int64[keys], the group of each key that a forward pass attends to.

    layers: float32[rows, groups] for each layer in their order, averaged over heads. It follows the two functions that
    models of the library compute attention with, in this thread alone and without a change to the model: of
    `scaled_dot_product_attention` the weights are computed once more, by blocks of rows; `softmax`, in eager attention,
    has them. So what a family does to its scores before (rotation, norms, soft caps, windows, sinks) is in them.
    """

    def __init__(self, groups: Any) -> None:
        super().__init__()
        self.member = functional.one_hot(groups).float()
        self.layers: list[Any] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = function(*args, **kwargs)
        if function is functional.scaled_dot_product_attention:
            self._of_scores(*args, **kwargs)
        elif function is functional.softmax and found.dim() == 4:  # of a router of experts it has fewer dimensions
            self._add([found[0]])
        return found

    def _of_scores(self, query: Any, key: Any, value: Any, attn_mask: Any = None, **settings: Any) -> None:
        query, key = query[0].float(), key[0].float()
        key = key.repeat_interleave(len(query) // len(key), 0)
        scale = settings.get("scale") or query.shape[-1] ** -0.5
        mask = attn_mask[0].float()
        blocks = range(0, query.shape[1], _ROWS)
        self._add((query[:, at : at + _ROWS] @ key.mT * scale + mask[:, at : at + _ROWS]).softmax(-1) for at in blocks)

    def _add(self, blocks: Any) -> None:
        member = self.member
        self.layers.append(torch.cat([(block[..., : len(member)].float() @ member).mean(0) for block in blocks]))
