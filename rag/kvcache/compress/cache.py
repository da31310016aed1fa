"""A filled cache compressed before the model goes on to write."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from rag.errors import InputError, ModelError
from rag.kvcache.adapter import ModelAdapter
from rag.kvcache.attention.observe import Observed, received
from rag.kvcache.compress.codecs import as_codec, importance
from rag.kvcache.manager import KVCacheManager, Prefilled

__all__ = ["compress_cache", "compressible"]


def compress_cache(
    manager: KVCacheManager,
    prefilled: Prefilled,
    observed: Observed,
    method: str = "ems",
    budget: float = 0.5,
    *,
    layers: Sequence[int] | None = None,
    **settings: Any,
) -> Prefilled:
    """The same prompt with fewer keys and values; the cache that was given is not changed.

    Args:
        manager: which prefilled the prompt; its model must be one of which chunks can be moved.
        observed: what was seen while it did so, see `observing`. Scores come from these queries.
        method: `evict`, `kvmerger`, `d2o` or `ems`, with its settings (see `rag.kvcache.compress.codecs`).
        budget: share of the prompt's tokens that each compressed layer keeps, above 0 to 1.
        layers: which ones; None takes all that attend to the whole text but the first two and the last (see
            `compressible`). Layers with a window are short already and are never compressed.

    Generation goes on under `attending(model)`, at the positions that the whole prompt leads to. Keys are turned back
    to position 0 before they are merged, and stand at the position of the token that stays. Raises InputError for a
    budget or layer that makes no sense or was not observed, ModelError where keys cannot be moved, ConfigError for an
    unknown method.
    """
    import torch
    from transformers.cache_utils import Cache

    from rag.kvcache.compress.layer import CompressedLayer

    adapter = manager.support.adapter
    if adapter is None or manager.support.reuse != "chunks":
        raise ModelError(f"the cache of this model cannot be compressed: {manager.support.reason}")
    chosen = compressible(adapter) if layers is None else tuple(layers)
    made = [copy(layer) for layer in prefilled.cache.layers]  # an update replaces a layer's tensors
    length, config = len(prefilled.tokens), manager.model.config.get_text_config()
    for number in chosen:
        if not 0 <= number < len(made) or adapter.windows[number] is not None:
            raise InputError(f"layer {number} of {len(made)} cannot be compressed: only layers without a window can")
        if number not in observed.layers:
            raise InputError(f"layer {number} was not observed", hint="with observing(model) as observed: prefill")
        keys, values = made[number].keys[0], made[number].values[0]
        if keys.shape[-2] != length:
            raise InputError(f"layer {number} holds {keys.shape[-2]} of {length} tokens: it was compressed before")
        with torch.no_grad():
            codec = as_codec(method, **settings)
            scores = importance(received(observed.layers[number], keys))
            less = codec.compress(_unturned(adapter, number, keys), values, scores, budget)
        if less.keys.shape[1] < length:
            turned = _turned(adapter, number, less.keys, less.positions)
            made[number] = CompressedLayer(turned[None], less.values[None], less.bias, length, config)
    return replace(prefilled, cache=Cache(layers=made))


def compressible(adapter: ModelAdapter) -> tuple[int, ...]:
    """Layers that attend to the whole text, without the first two and the last, whose attention is flat (KVMerger)."""
    last = len(adapter.windows) - 1
    return tuple(at for at, window in enumerate(adapter.windows) if window is None and 2 <= at < last)


def _unturned(adapter: ModelAdapter, layer: int, keys: Any) -> Any:
    import torch

    rotation = adapter.rotations[layer]
    return keys if rotation is None else rotation.remove(keys, torch.arange(keys.shape[-2], device=keys.device))


def _turned(adapter: ModelAdapter, layer: int, keys: Any, positions: Any) -> Any:
    """Keys [heads, m, d] turned to positions [heads, m]."""
    import torch

    rotation = adapter.rotations[layer]
    if rotation is None:
        return keys
    return torch.stack([rotation.apply(one, where) for one, where in zip(keys, positions, strict=True)])
