"""States of random numbers, for tests of stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rag.kvcache import SegmentStates, StateKey

SHAPES = [(1, 4, 4), (1, 4, 4)]
"""What `SegmentStates.fault` is to expect of them."""


def key_of(name: int) -> StateKey:
    return StateKey(str(name), "")


def made(
    name: int, tokens: int = 5, seed: int = 0, dtype: str = "float32", extra: Mapping[str, Any] | None = None
) -> SegmentStates:
    """Of two layers with one head of 4 dimensions; 64 bytes a token in float32. The same arguments give the same."""
    import torch

    draw = torch.Generator().manual_seed(1000 * name + seed)
    parts = torch.randn(4, 1, tokens, 4, generator=draw).to(getattr(torch, dtype))
    keys, values = tuple(part.clone() for part in parts[:2]), tuple(part.clone() for part in parts[2:])
    return SegmentStates(key_of(name), "m", keys, values, extra=extra or {})


def equal(one: SegmentStates | None, other: SegmentStates | None) -> bool:
    """Whether both are there, and the same bit for bit."""
    import torch

    if one is None or other is None:
        return one is other
    pairs = zip((*one.keys, *one.values), (*other.keys, *other.values), strict=True)
    return one.key == other.key and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
