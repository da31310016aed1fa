"""A filled cache of a long text whose layers with full attention search their keys."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

from rag.errors import InputError, ModelError
from rag.kvcache.attention.observe import Observed
from rag.kvcache.attention.retrievers import as_retriever
from rag.kvcache.manager import KVCacheManager, Prefilled

__all__ = ["search_cache"]


def search_cache(
    manager: KVCacheManager,
    prefilled: Prefilled,
    observed: Observed,
    method: str = "index",
    *,
    sinks: int = 128,
    recent: int = 512,
    **settings: Any,
) -> Prefilled:
    """The same prompt with a cache that attends to the keys each query finds; the one that was given is not changed.

    Args:
        manager: which prefilled the prompt; its model must pass the test for exact prefixes at least.
        observed: what was seen while it did so, see `observing`: an index is fitted to these queries.
        method: `index` (RetrievalAttention) or `pages` (LServe), with its settings (see `retrievers`), such as `k`.
        sinks, recent: how many of the first and of the last tokens every query attends to.

    Layers with a window stay as they are, and so does everything where the prompt is not longer than `sinks + recent`.
    Generation goes on under `attending(model)`, one text at a time. Raises InputError for a layer that was not observed
    or counts below 0, ModelError for models that cannot be run in parts, ConfigError for an unknown method.
    """
    import torch
    from transformers.cache_utils import Cache

    from rag.kvcache.attention.layer import SearchedLayer

    adapter = manager.support.adapter
    if adapter is None:
        raise ModelError(f"the cache of this model cannot be searched: {manager.support.reason}")
    if sinks < 0 or recent < 0:
        raise InputError(f"{sinks} first and {recent} last tokens to attend to, expected 0 or more")
    length, config = len(prefilled.tokens), manager.model.config.get_text_config()
    layers = [copy(layer) for layer in prefilled.cache.layers]  # an update replaces a layer's tensors
    for number, window in enumerate(adapter.windows):
        if window is not None or length <= sinks + recent:
            continue
        if number not in observed.layers:
            raise InputError(f"layer {number} was not observed", hint="with observing(model) as observed: prefill")
        keys, values = layers[number].keys, layers[number].values
        if keys.shape[-2] != length:
            raise InputError(f"layer {number} holds {keys.shape[-2]} of {length} tokens: it was compressed before")
        asked = observed.layers[number].queries.unflatten(0, (keys.shape[1], -1))
        asked = asked.transpose(1, 2).flatten(1, 2)  # of all query heads of a KV head, the last token's at the end
        with torch.no_grad():
            retrievers = [as_retriever(method, queries, **settings) for queries in asked]
            layers[number] = SearchedLayer(keys, values, retrievers, sinks, recent, config)
    return replace(prefilled, cache=Cache(layers=layers))
