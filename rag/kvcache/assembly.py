"""A prompt's keys and values put together from cached parts and computed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.kvcache.adapter import ModelAdapter
from rag.kvcache.masks import additive_mask

__all__ = ["Assembly"]


class Assembly:
    """The keys and values of one prompt in all layers, at full length also where a layer sees only a window.

    First cached states are put in their places, then the model runs over the tokens that are to be computed. What it
    computes replaces, layer by layer, what was there, and every computed token looks at all tokens before it. Positions
    count from 0. One assembly belongs to one thread.
    """

    def __init__(self, adapter: ModelAdapter, tokens: Sequence[int]) -> None:
        import torch

        self.adapter = adapter
        self.tokens = torch.tensor(tokens, device=adapter.device)
        length = len(tokens)
        made = {"dtype": adapter.dtype, "device": adapter.device}
        self.keys = [torch.zeros(1, heads, length, wide, **made) for heads, wide, _ in adapter.shapes]
        self.values = [torch.zeros(1, heads, length, wide, **made) for heads, _, wide in adapter.shapes]
        self._filled = np.zeros(length, bool)
        self._placed: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._filled)

    def place(self, start: int, keys: Sequence[Any], values: Sequence[Any]) -> None:
        """Put states without positions, [heads, n, d] for each layer, at `start`; before anything is computed."""
        stop = start + keys[0].shape[-2]
        for layer in range(len(self.keys)):
            self.keys[layer][0, :, start:stop] = keys[layer]
            self.values[layer][0, :, start:stop] = values[layer]
        self._placed.append((start, stop))
        self._filled[start:stop] = True

    def states(self, start: int, stop: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Keys without positions and values of tokens [start, stop), [heads, n, d] for each layer; copies."""
        import torch

        self._give_positions()
        where = torch.arange(start, stop, device=self.adapter.device)
        keys = []
        for layer, rotation in enumerate(self.adapter.rotations):
            part = self.keys[layer][0, :, start:stop]
            keys.append(part.clone() if rotation is None else rotation.remove(part, where).contiguous())
        return tuple(keys), tuple(part[0, :, start:stop].clone() for part in self.values)

    def run(self, positions: NDArray[np.int64], *, masked: bool = False) -> Any:
        """Compute these positions, in any order; returns the logits of the last one, float32[vocabulary].

        All other positions before the last one must be filled. `masked` builds masks here also where the library's
        own would do, which is where the positions are the last ones without a gap.
        """
        return self._forward(np.unique(positions), None, masked)

    def compute(self, positions: NDArray[np.int64], layer: int | None = None) -> None:
        """Compute these positions as far as the keys and values of `layer`, None for the last one."""
        self._forward(np.unique(positions), len(self.keys) - 1 if layer is None else layer, False)

    def cache(self) -> Any:
        """The library's cache of the whole prompt, as a full prefill leaves it: windows hold what they still need."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.adapter.model.config)
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            cache.update(keys, values, layer)
        return cache

    def _give_positions(self) -> None:
        """Turn the keys that were placed to their positions, a whole layer at a time."""
        import torch

        if not self._placed:
            return
        upto = max(stop for _, stop in self._placed)
        where = torch.arange(upto, device=self.adapter.device)
        for layer, rotation in enumerate(self.adapter.rotations):
            if rotation is not None:
                part = self.keys[layer][:, :, :upto]
                part.copy_(rotation.apply(part, where))
        self._placed = []

    def _forward(self, positions: NDArray[np.int64], stop: int | None, masked: bool) -> Any:
        import torch
        from transformers.cache_utils import Cache

        from rag.kvcache.layers import Reached, ScatterLayer

        self._give_positions()
        upto = int(positions[-1]) + 1
        past = upto - len(positions)
        filled = self._filled.copy()
        filled[positions] = True
        assert filled[:upto].all(), "a position before the last one is neither cached nor computed"
        if stop is None or stop == len(self.keys) - 1:
            self._filled = filled
        tail = int(positions[0]) == past and not masked
        at = torch.from_numpy(positions).to(self.adapter.device)
        cache = Cache(
            layers=[
                ScatterLayer(keys, values, at, past, upto, number == stop)
                for number, (keys, values) in enumerate(zip(self.keys, self.values, strict=True))
            ]
        )
        mask = None if tail else self._masks(at, upto)
        try:
            return self.adapter.forward(self.tokens[at], at, cache, mask)
        except Reached:
            return None

    def _masks(self, at: Any, upto: int) -> Any:
        adapter = self.adapter
        made = {window: additive_mask(at, upto, window, adapter.dtype) for window in set(adapter.windows)}
        if adapter.layer_types is None:
            return made[adapter.windows[0]]
        return {kind: made[window] for kind, window in zip(adapter.layer_types, adapter.windows, strict=True)}
