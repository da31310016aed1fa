"""Keys and values of segments, and where they are kept between requests."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError
from rag.kvcache.bits import bit_sum

__all__ = ["MemoryStore", "SegmentStates", "StateKey", "StateStore"]


class StateKey(NamedTuple):
    """What names stored states: a segment (see `segment_id`) and the context it was computed in (see `then`)."""

    segment: str
    context: str


@dataclass(frozen=True, eq=False)
class SegmentStates:
    """Keys and values of one segment in one context, of all layers; nobody writes into them.

    keys, values: a tensor [heads, tokens, d] for each layer; the keys carry no positions. model: fingerprint of the
    model that computed them. checksum: of all bytes, when they were made. extra: numbers about them by name, such as
    one for each token.
    """

    key: StateKey
    model: str
    keys: tuple[Any, ...]
    values: tuple[Any, ...]
    checksum: int = field(default=-1)
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)

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


class MemoryStore:
    """States in this process's memory within a budget of bytes; the least recently used go first.

    States that are larger than the whole budget are not kept. A caller who still holds states that were dropped may
    go on to use them.
    """

    def __init__(self, budget: int = 1 << 30) -> None:
        if budget < 0:
            raise InputError(f"the budget of a store is {budget} bytes, expected 0 or more")
        self.budget = budget
        self._kept: OrderedDict[StateKey, SegmentStates] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes held now, never more than the budget."""
        return self._nbytes

    def get(self, key: StateKey) -> SegmentStates | None:
        """The states of that name, which now count as used last, or None."""
        with self._lock:
            states = self._kept.get(key)
            if states is not None:
                self._kept.move_to_end(key)
            return states

    def put(self, states: SegmentStates) -> None:
        """Keep these states; others that were used longest ago make room."""
        with self._lock:
            self._drop(states.key)
            if states.nbytes > self.budget:
                return
            while self._nbytes + states.nbytes > self.budget:
                self._drop(next(iter(self._kept)))
            self._kept[states.key] = states
            self._nbytes += states.nbytes

    def discard(self, key: StateKey) -> None:
        """Drop the states of that name, if there are any."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: StateKey) -> None:
        states = self._kept.pop(key, None)
        if states is not None:
            self._nbytes -= states.nbytes


def _checksum(parts: Sequence[Any], extra: Mapping[str, NDArray[Any]]) -> int:
    total = sum(at * bit_sum(part) for at, part in enumerate(parts, 1))
    for name, numbers in extra.items():
        total += zlib.crc32(np.ascontiguousarray(numbers).tobytes(), zlib.crc32(name.encode()))
    return total % (1 << 62)
