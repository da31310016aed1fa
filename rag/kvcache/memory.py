"""Keys and values of segments in memory, of the machine or of a device."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from rag.errors import InputError, NotFoundError
from rag.kvcache.eviction import Eviction, Ranking
from rag.kvcache.store import SegmentStates, StateKey

__all__ = ["MemoryStore"]


class MemoryStore:
    """States in this process's memory within a budget of bytes; the least useful go first.

    Args:
        budget: bytes held at most. States that are larger than that alone are not kept.
        eviction: `benefit` (uses x tokens / bytes, with ageing; see `rag.kvcache.eviction`), `lru` or `lfu`.
        device: where tensors are moved when they come in, as torch names it; None leaves them where they are.

    A caller who still holds states that were dropped may go on to use them. Safe under threads.
    Raises InputError for a negative budget, ConfigError for an unknown policy.
    """

    persistent = False

    def __init__(self, budget: int = 1 << 30, *, eviction: Eviction = "benefit", device: Any = None) -> None:
        if budget < 0:
            raise InputError(f"the budget of a store is {budget} bytes, expected 0 or more")
        self.budget = budget
        self.device = device
        self.hits = 0
        self._kept: dict[StateKey, SegmentStates] = {}
        self._ranking: Ranking[StateKey] = Ranking(eviction)
        self._nbytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: StateKey) -> bool:
        return key in self._kept

    @property
    def nbytes(self) -> int:
        """Bytes held now, never more than the budget."""
        return self._nbytes

    @property
    def pinned_bytes(self) -> int:
        """Of these, bytes that are pinned."""
        return sum(self._kept[key].nbytes for key in self._ranking.pinned)

    def get(self, key: StateKey) -> SegmentStates | None:
        """The states of that name, which now count as used once more, or None."""
        with self._lock:
            states = self._kept.get(key)
            if states is not None:
                self._ranking.touch(key)
                self.hits += 1
            return states

    def put(self, states: SegmentStates) -> None:
        """Keep these states; others make room."""
        self.insert(states)

    def insert(self, states: SegmentStates) -> Sequence[SegmentStates]:
        """As `put`; returns what is not kept for it: others that made room, or these states themselves."""
        if self.device is not None:
            states = states.to(self.device)
        nbytes = states.nbytes
        dropped: list[SegmentStates] = []
        with self._lock:
            pinned = states.key in self._ranking.pinned
            self._drop(states.key)
            if nbytes > self.budget - self.pinned_bytes:
                return [states]
            while self._nbytes + nbytes > self.budget:
                victim = self._ranking.evict()
                assert victim is not None, "what is not pinned is in the ranking"
                dropped.append(self._forget(victim))
            self._kept[states.key] = states
            self._nbytes += nbytes
            self._ranking.add(states.key, states.tokens, nbytes)
            self._ranking.pin(states.key, pinned)
        return dropped

    def discard(self, key: StateKey) -> None:
        """Drop the states of that name, if there are any, pinned or not."""
        with self._lock:
            self._drop(key)

    def pin(self, key: StateKey) -> None:
        """Keep the states of that name until `unpin` or `discard`, whatever else comes in; NotFoundError without any.

        Pinned states are part of the budget: with all of it pinned nothing else is kept.
        """
        with self._lock:
            if key not in self._kept:
                raise NotFoundError(
                    f"there are no states of segment {key.segment[:12]!r} to pin", hint="put them first"
                )
            self._ranking.pin(key, True)

    def unpin(self, key: StateKey) -> None:
        """Let the states of that name go again when room is needed."""
        with self._lock:
            self._ranking.pin(key, False)

    def _drop(self, key: StateKey) -> None:
        if key in self._kept:
            self._ranking.remove(key)
            self._forget(key)

    def _forget(self, key: StateKey) -> SegmentStates:
        states = self._kept.pop(key)
        self._nbytes -= states.nbytes
        return states
