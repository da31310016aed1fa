"""A layer of a transformers cache that keeps the middle of a long text in host memory and attends to what it finds.

Imports torch and transformers; imported only when a model is at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from rag.errors import InputError, ModelError
from rag.kvcache.attention.interface import is_attending, mark
from rag.kvcache.attention.partial import Logits, Partial, attend_to, joined
from rag.kvcache.attention.retrievers import Retriever

__all__ = ["SearchedLayer"]

_BLOCK = 256
"""Tokens that leave the recent ones at a time."""


class SearchedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one text: the first `sinks` and at least the last `recent` tokens stay with the model.

    What is between them goes to `retrievers`, one for each KV head; so does what is generated, once it is no longer
    recent. Attention is that over the tokens that stay, joined with that over those found. For one text at a time.
    """

    is_croppable = False

    def __init__(
        self, keys: Any, values: Any, retrievers: Sequence[Retriever], sinks: int, recent: int, config: Any
    ) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self.retrievers, self.sinks, self.recent, self.config = retrievers, sinks, recent, config
        self._move(0)

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not is_attending(self.config):
            raise ModelError(
                "most of the cache is to be searched, and the model's attention knows nothing of it",
                hint="with attending(model): model.generate(...)",
            )
        if len(key_states) != 1:
            raise InputError(f"{len(key_states)} texts at a time for a cache that is searched for one", hint="no beams")
        self._move(_BLOCK)
        keys, values = super().update(key_states, value_states)
        return mark(keys, self), values

    def get_seq_length(self) -> int:
        return int(self.keys.shape[-2]) + len(self.retrievers[0])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def attend(self, query: Any, scaling: float, softcap: float | None, sink: Any) -> Any:
        """See `OwnAttention`; called with the queries of the tokens that `update` was given last."""
        heads, rows = self.keys.shape[1], query.shape[2]
        queries = query[0].float().unflatten(0, (heads, -1))  # [KV heads, query heads of each, rows, d]
        logits = Logits(scaling, softcap)
        near = logits(queries @ self.keys[0, :, None].float().transpose(-1, -2))
        if rows > 1:
            later = torch.ones(rows, rows, dtype=torch.bool, device=near.device).triu(1)
            near[..., near.shape[-1] - rows :].masked_fill_(later, -torch.inf)
        parts = [attend_to(near, self.values[0, :, None])]
        if len(self.retrievers[0]):
            parts.append(self._found(queries, logits))
        if sink is not None:
            peak = sink.float().reshape(heads, -1, 1).expand(queries.shape[:3])
            parts.append(Partial(torch.zeros_like(parts[0].output), peak, torch.ones_like(peak)))
        output = joined(parts).flatten(0, 1)  # [heads, rows, d]
        return output.transpose(0, 1)[None].to(query.dtype).contiguous()

    def _found(self, queries: Any, logits: Logits) -> Partial:
        host = queries.flatten(1, 2).cpu()
        found = [one.attend(asked, logits) for one, asked in zip(self.retrievers, host, strict=True)]
        return Partial(
            *(torch.stack(part).unflatten(1, queries.shape[1:3]).to(self.device) for part in zip(*found, strict=True))
        )

    def _move(self, block: int) -> None:
        """Hand what is neither first nor recent to the retrievers, where it is at least a block."""
        stop = self.keys.shape[-2] - self.recent
        if stop - self.sinks < max(block, 1):
            return
        for head, retriever in enumerate(self.retrievers):
            keys, values = (part[0, head, self.sinks : stop].cpu() for part in (self.keys, self.values))
            retriever.add(keys, values)
        for name in ("keys", "values"):
            part = getattr(self, name)
            setattr(self, name, torch.cat([part[:, :, : self.sinks], part[:, :, stop:]], -2))
