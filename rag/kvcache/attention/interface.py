"""Attention of a transformers model over keys that say themselves how they are to be attended to.

A layer of a cache marks the keys it hands to the model (`mark`): with a bias for each key, or with a way of its own to
attend. While a model is `attending`, its attention function honours that; over any other keys it does what it did.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from rag.errors import ModelError
from rag.kvcache.adapter import WRAPPED, kernel_of

__all__ = ["OwnAttention", "Watcher", "attending", "is_attending", "mark", "watcher"]

_BASES = ("sdpa", "eager")
_MARK = "_rag_attention"

_lock = threading.Lock()
_users: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


class OwnAttention(Protocol):
    """What a layer of a cache does with queries in place of plain attention over the keys it hands out."""

    def attend(self, query: Any, scaling: float, softcap: float | None, sink: Any) -> Any:
        """Queries [1, heads, q, d], the last q tokens of the text in order; output [1, q, heads, d of values].

        sink: float[heads], a logit without a value that each head's softmax counts (gpt-oss), or None.
        """
        ...


class Watcher(Protocol):
    """Sees every call of attention to a whole text; see `rag.kvcache.attention.observe`."""

    def see(self, layer: int, query: Any, keys: int, mask: Any, scaling: float, softcap: float | None) -> None: ...


watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def attending(model: Any) -> Iterator[None]:
    """Let a transformers model honour the keys of compressed and searched caches; anything else stays as it is.

    It switches the model's attention function (`AttentionInterface`) to one that wraps the former, and back at the end
    of the last such block. Blocks may be nested and overlap in several threads. Raises ModelError for a model whose
    attention is neither `sdpa` nor `eager`, or that does not go through the interface.
    """
    with _lock:
        _users[model] = _users.get(model, 0) + 1
        try:
            if _users[model] == 1:
                _switch(model)
        except BaseException:
            del _users[model]
            raise
    try:
        yield
    finally:
        with _lock:
            _users[model] -= 1
            if not _users[model]:
                del _users[model]
                model.set_attn_implementation(kernel_of(model))


def is_attending(config: Any) -> bool:
    """Whether the model of this configuration honours marked keys just now."""
    return str(config._attn_implementation).startswith(WRAPPED)


def mark(keys: Any, how: Any) -> Any:
    """The same keys as a new tensor object that says how to attend to it.

    `how` is an `OwnAttention`, or a bias float32[heads, n] for the first n keys, or None for no bias.
    """
    marked = keys.view(keys.shape)  # an object of its own, so that a layer that marks keys with itself makes no cycle
    setattr(marked, _MARK, (how,))
    return marked


def _switch(model: Any) -> None:
    base = kernel_of(model)
    own = hasattr(sys.modules[type(model).__module__], "eager_attention_forward")
    if base not in _BASES or not model._can_set_attn_implementation() or (base == "eager" and not own):
        raise ModelError(
            f"the attention of {type(model).__name__} ({base!r}) cannot be told how to attend",
            hint="load the model with attn_implementation='sdpa' or 'eager'; a few old families have none of these",
        )
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask, sdpa_mask

    AttentionInterface.register(WRAPPED + base, _wrapped(base))
    AttentionMaskInterface.register(WRAPPED + base, sdpa_mask if base == "sdpa" else eager_mask)
    model.set_attn_implementation(WRAPPED + base)


def _wrapped(base: str) -> Callable[..., Any]:
    """An attention function that wraps the library's own (sdpa) or that of the model's family (eager)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **settings: Any) -> Any:
        scaling = settings.get("scaling") or query.shape[-1] ** -0.5
        softcap = settings.get("softcap")
        if (watching := watcher.get()) is not None and settings.get("sliding_window") is None:
            watching.see(module.layer_idx, query, key.shape[-2], attention_mask, scaling, softcap)
        if (marked := getattr(key, _MARK, None)) is not None:
            how = marked[0]
            if hasattr(how, "attend"):
                return how.attend(query, scaling, softcap, settings.get("s_aux")), None
            attention_mask = _biased(query, key, how)
        if base == "sdpa":
            return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        own = sys.modules[type(module).__module__].eager_attention_forward
        return own(module, query, key, value, attention_mask, **settings)

    return attention


def _biased(query: Any, key: Any, bias: Any) -> Any:
    """An additive mask [1, heads, q, keys]: the bias of each key, and no sight of what comes after a query."""
    import torch

    heads, rows, length = query.shape[1], query.shape[2], key.shape[2]
    if bias is None and rows == 1:
        return None
    mask = torch.zeros(1, heads, rows, length, dtype=query.dtype, device=query.device)
    if bias is not None:
        mask[0, :, :, : bias.shape[1]] = bias.repeat_interleave(heads // len(bias), 0)[:, None].to(mask.dtype)
    later = torch.ones(rows, rows, dtype=torch.bool, device=query.device).triu(1)
    mask[..., length - rows :].masked_fill_(later, torch.finfo(query.dtype).min)
    return mask
