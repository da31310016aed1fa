"""Keys and values of segments, and what a place must offer that keeps them between requests."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rag.kvcache.bits import bit_sum

__all__ = ["SegmentStates", "StateKey", "StateStore"]


class StateKey(NamedTuple):
    """What names stored states: a segment (see `segment_id`) and the context it was computed in (see `then`)."""

    segment: str
    context: str


@dataclass(frozen=True, eq=False)
class SegmentStates:
    """Keys and values of one segment in one context, of all layers; nobody writes into them.

    keys, values: a tensor [heads, tokens, d] for each layer; the keys carry no positions. model: fingerprint of the
    model that computed them. checksum: of all bytes, when they were made. extra: numbers about them by name, such as
    one for each token. rounded: whether a lossy codec has been over them since the model computed them; what is made of
    them is then not exact.
    """

    key: StateKey
    model: str
    keys: tuple[Any, ...]
    values: tuple[Any, ...]
    checksum: int = field(default=-1)
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    rounded: bool = False

    def __post_init__(self) -> None:
        if self.checksum < 0:
            object.__setattr__(self, "checksum", _checksum((*self.keys, *self.values), self.extra))

    @property
    def tokens(self) -> int:
        return int(self.keys[0].shape[-2])

    @property
    def nbytes(self) -> int:
        tensors = sum(int(part.numel()) * int(part.element_size()) for part in (*self.keys, *self.values))
        return tensors + sum(numbers.nbytes for numbers in self.extra.values())

    def to(self, device: Any) -> SegmentStates:
        """The same states with their tensors on a device; themselves where they are there already."""
        keys = tuple(part.to(device) for part in self.keys)
        values = tuple(part.to(device) for part in self.values)
        same = all(one is other for one, other in zip((*keys, *values), (*self.keys, *self.values), strict=True))
        return self if same else replace(self, keys=keys, values=values)

    def fault(self, key: StateKey, model: str, shapes: Sequence[tuple[int, int, int]], tokens: int, dtype: Any) -> str:
        """Why these are not the states that were asked for, or an empty string.

        `shapes` has (heads, dimension of a key, dimension of a value) for each layer.
        """
        if self.model != model:
            return "made by another model"
        if self.key != key:
            return "of another segment or context"
        if not len(self.keys) == len(self.values) == len(shapes):
            return f"{len(self.keys)} layers instead of {len(shapes)}"
        for keys, values, (heads, wide, value_wide) in zip(self.keys, self.values, shapes, strict=True):
            if keys.shape != (heads, tokens, wide) or values.shape != (heads, tokens, value_wide):
                return f"keys of shape {tuple(keys.shape)} instead of {(heads, tokens, wide)}"
            if keys.dtype != dtype or values.dtype != dtype:
                return f"numbers of type {keys.dtype} instead of {dtype}"
        if _checksum((*self.keys, *self.values), self.extra) != self.checksum:
            return "damaged: the checksum differs"
        return ""


class StateStore(Protocol):
    """Where states are kept. Safe under threads; may drop anything at any time, which costs time and nothing else."""

    def get(self, key: StateKey) -> SegmentStates | None:
        """The states of that name, or None."""
        ...

    def put(self, states: SegmentStates) -> None:
        """Keep these states under their key, in the place of others of the same key."""
        ...

    def discard(self, key: StateKey) -> None:
        """Drop the states of that name, if there are any."""
        ...


def _checksum(parts: Sequence[Any], extra: Mapping[str, NDArray[Any]]) -> int:
    total = sum(at * bit_sum(part) for at, part in enumerate(parts, 1))
    for name, numbers in extra.items():
        total += zlib.crc32(np.ascontiguousarray(numbers).tobytes(), zlib.crc32(name.encode()))
    return total % (1 << 62)
