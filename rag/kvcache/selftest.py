"""A model shows on random tokens how far its prompts can be put together from parts."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rag.kvcache.adapter import ModelAdapter, Unsupported, adapter_of, tolerance
from rag.kvcache.assembly import Assembly
from rag.kvcache.strategies import Reuse

__all__ = ["Support", "support_of"]

log = logging.getLogger("rag.kvcache")

_LENGTH, _SPLIT = 48, 30
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)
"""What a model raises that does not take a mask or a cache as it is given here."""


@dataclass(frozen=True)
class Support:
    """How much can be reused with a model, and why not more.

    `reuse` is the most: `chunks`, `prefix`, or `nothing` (then there is no adapter).
    """

    reuse: Reuse
    reason: str
    adapter: ModelAdapter | None


def support_of(model: Any) -> Support:
    """Look at a model and test it on 48 random tokens (half a dozen forward passes); a lack is logged with its reason.

    `prefix` needs that a prompt whose first part is cached has the logits of a full prefill. `chunks` also needs that
    keys computed at other positions agree once they are moved, and that tokens computed anew among cached ones, with
    masks made here, lead to the logits of a full prefill. In float32 the differences may be 1e-4 of the largest value.
    """
    import torch

    with torch.no_grad():
        support = _tested(model)
    if support.reuse != "chunks":
        more = "prompts are computed in full" if support.reuse == "nothing" else "only exact prefixes are reused"
        log.warning("%s: %s: %s", type(model).__name__, more, support.reason)
    return support


def _tested(model: Any) -> Support:
    try:
        adapter = adapter_of(model)
        tokens, expected = _reference(adapter)
        _check(expected, _behind_prefix(adapter, tokens), adapter, "a prompt behind a cached prefix has other logits")
    except Unsupported as reason:
        return Support("nothing", str(reason), None)
    except _REFUSALS as error:
        return Support("nothing", f"it cannot be run in parts: {error}", None)
    if adapter.immovable:
        return Support("prefix", adapter.immovable, adapter)
    try:
        _check_moved(adapter, tokens)
        adapter = _with_masks(adapter, tokens, expected)
    except Unsupported as reason:
        fixed: tuple[None, ...] = (None,) * len(adapter.rotations)
        return Support("prefix", str(reason), replace(adapter, rotations=fixed, immovable=str(reason)))
    return Support("chunks", "", adapter)


def _reference(adapter: ModelAdapter) -> tuple[list[int], Any]:
    """Random tokens and the logits of a plain full prefill."""
    import torch

    vocabulary = adapter.model.config.get_text_config().vocab_size
    tokens = torch.randint(0, vocabulary, (_LENGTH,), generator=torch.Generator().manual_seed(1))
    whole = tokens[None].to(adapter.device)
    logits = adapter.model(input_ids=whole, use_cache=False).logits[0, -1].float()
    return tokens.tolist(), logits


def _behind_prefix(adapter: ModelAdapter, tokens: list[int]) -> Any:
    earlier = Assembly(adapter, tokens[:_SPLIT])
    earlier.compute(np.arange(_SPLIT))
    whole = Assembly(adapter, tokens)
    whole.place(0, *earlier.states(0, _SPLIT))
    return whole.run(np.arange(_SPLIT, _LENGTH))


def _check_moved(adapter: ModelAdapter, tokens: list[int]) -> None:
    """Keys and values of the same tokens at positions 0.. and further on, freed of their positions, agree."""
    import torch
    from transformers import DynamicCache

    found = []
    for start in (0, _SPLIT):
        cache = DynamicCache()
        at = torch.arange(start, start + _SPLIT, device=adapter.device)
        adapter.forward(torch.tensor(tokens[:_SPLIT], device=adapter.device), at, cache, None)
        keys = [
            layer.keys if rotation is None else rotation.remove(layer.keys, at)
            for layer, rotation in zip(cache.layers, adapter.rotations, strict=True)
        ]
        found.append(keys + [layer.values for layer in cache.layers])
    for number, (one, other) in enumerate(zip(*found, strict=True)):
        what = f"{'values' if number >= len(adapter.rotations) else 'keys'} of layer {number % len(adapter.rotations)}"
        _check(one, other, adapter, f"{what} computed at other positions do not agree when moved")


def _with_masks(adapter: ModelAdapter, tokens: list[int], expected: Any) -> ModelAdapter:
    """The adapter with the form of masks that the model takes: one for each type of layer, or one for all."""
    complete = Assembly(adapter, tokens)
    complete.compute(np.arange(_LENGTH))
    states = complete.states(0, _LENGTH)
    again = np.array([at for at in range(_LENGTH) if at % 3 == 0 or at >= _LENGTH - 4])
    forms: list[tuple[str, ...] | None] = [adapter.layer_types] if adapter.layer_types else []
    if len(set(adapter.windows)) == 1:
        forms.append(None)
    reason = ""
    for form in forms:
        candidate = replace(adapter, layer_types=form)
        try:
            partly = Assembly(candidate, tokens)
            partly.place(0, *states)
            for layer in (*partly.keys, *partly.values):
                layer[:, :, again] = 1.0  # what is computed again must be replaced, and seen when it is
            _check(expected, partly.run(again), candidate, "tokens computed anew give other logits")
        except Unsupported as error:
            reason = str(error)
        except _REFUSALS as error:
            reason = f"it takes no masks for tokens among cached ones: {error}"
        else:
            return candidate
    raise Unsupported(reason or "its layers have windows of several sizes, but no types")


def _check(one: Any, other: Any, adapter: ModelAdapter, otherwise: str) -> None:
    difference = float((one.float() - other.float()).abs().max())
    largest = float(one.abs().max())
    if not difference <= tolerance(adapter.dtype) * max(largest, 1.0):
        raise Unsupported(f"{otherwise} (difference {difference:.2g}, largest value {largest:.2g})")
