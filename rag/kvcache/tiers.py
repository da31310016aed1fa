"""Several stores as one: device memory, host memory, disk, from the fastest to the largest."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from rag.errors import InputError
from rag.kvcache.disk import DiskStore
from rag.kvcache.memory import MemoryStore
from rag.kvcache.store import SegmentStates, StateKey, StateStore

__all__ = ["Tier", "TieredStore"]

_TOGETHER = 32
"""Uses in memory that the disk is told of at once."""


class Tier(StateStore, Protocol):
    """A store that tells what it drops."""

    hits: int

    @property
    def persistent(self) -> bool:
        """Whether it outlives the process: then it gets all states at once, not only what falls out above it."""
        ...

    def __contains__(self, key: StateKey) -> bool: ...

    def insert(self, states: SegmentStates) -> Sequence[SegmentStates]:
        """As `put`; returns what is not kept for it and could be kept elsewhere."""
        ...


class TieredStore:
    """Tiers as one store, each within its own budget.

    What is put goes to memory, and to disk at the same time, so that a process that ends or is killed leaves it to the
    next one. What falls out of one tier goes to the next. What is found in a lower tier comes back to memory; a tier
    of memory gives it away then, a disk keeps it, and is told of uses further up, so that it does not drop what is
    used most. Safe under threads.

    Args:
        memory: the tiers of memory, fastest first.
        disk: the last tier, if any.

    Raises InputError without a tier of memory.
    """

    def __init__(self, *memory: MemoryStore, disk: DiskStore | None = None) -> None:
        if not memory:
            raise InputError("a tiered store has no tier of memory", hint="a DiskStore alone is a store as well")
        self.memory = memory
        self.disk = disk
        self.tiers: tuple[Tier, ...] = memory if disk is None else (*memory, disk)
        self.misses = 0
        self._background: ThreadPoolExecutor | None = None
        self._uses: Counter[StateKey] = Counter()  # that the disk is not yet told of
        self._loading: dict[StateKey, Future[SegmentStates | None]] = {}
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held in memory now, of all its tiers."""
        return sum(tier.nbytes for tier in self.memory)

    @property
    def hits(self) -> tuple[int, ...]:
        """For each tier how often states were found there."""
        return tuple(tier.hits for tier in self.tiers)

    def __contains__(self, key: StateKey) -> bool:
        return any(key in tier for tier in self.tiers)

    def get(self, key: StateKey) -> SegmentStates | None:
        """The states of that name, which are in the first tier then if it has room, or None."""
        states = self.memory[0].get(key)
        if states is not None:
            self._note(key)
            return states
        loading = self._loading.get(key)
        states = self._load(key) if loading is None else loading.result()
        if states is None:
            self.misses += 1
        return states

    def put(self, states: SegmentStates) -> None:
        """Keep these states in the first tier, and on disk."""
        for tier in self.memory[1:]:
            tier.discard(states.key)
        if self.disk is not None:
            self.disk.put(states)
        self._push(states)

    def discard(self, key: StateKey) -> None:
        """Drop the states of that name from all tiers."""
        for tier in self.tiers:
            tier.discard(key)

    def pin(self, key: StateKey) -> None:
        """Bring the states of that name to the first tier and keep them there until `unpin` or `discard`.

        Raises NotFoundError where no tier has them, InputError where pinned states leave no room for them.
        """
        found = self.get(key)
        if found is not None and key not in self.memory[0]:
            raise InputError(
                f"no room to pin {found.nbytes} bytes: the first tier has {self.memory[0].budget}, of which "
                f"{self.memory[0].pinned_bytes} are pinned",
                hint="unpin others, or give it a larger budget",
            )
        self.memory[0].pin(key)

    def unpin(self, key: StateKey) -> None:
        """Let the states of that name go again when room is needed."""
        self.memory[0].unpin(key)

    def prefetch(self, keys: Iterable[StateKey]) -> None:
        """Begin to bring these to the first tier, in a thread, for requests that will soon ask for them.

        Who asks meanwhile waits for it and does not read them again. What is nowhere is left out.
        """
        with self._lock:
            for key in keys:
                if key not in self._loading and key not in self.memory[0]:
                    self._loading[key] = self._thread().submit(self._fetch, key)

    def close(self) -> None:
        """Wait until what was asked for ahead is there, and the disk knows of all uses. It can be used further."""
        with self._lock:
            background, self._background = self._background, None
            uses, self._uses = self._uses, Counter()
        if background is not None:
            background.shutdown()
        self._tell(uses)

    def _thread(self) -> ThreadPoolExecutor:
        if self._background is None:
            self._background = ThreadPoolExecutor(1, "kvcache")
        return self._background

    def _note(self, key: StateKey) -> None:
        """A use in memory, of which the disk is told in the background, together with others."""
        if self.disk is None:
            return
        with self._lock:
            self._uses[key] += 1
            if self._uses.total() >= _TOGETHER:
                self._thread().submit(self._tell, self._uses)
                self._uses = Counter()

    def _tell(self, uses: Counter[StateKey]) -> None:
        for key, times in uses.items():
            if self.disk is not None:
                self.disk.touch(key, times)

    def _fetch(self, key: StateKey) -> SegmentStates | None:
        try:
            return self._load(key)
        finally:
            with self._lock:
                self._loading.pop(key, None)

    def _load(self, key: StateKey) -> SegmentStates | None:
        """The states from the first of the lower tiers that has them, brought to the top."""
        for tier in self.tiers[1:]:
            states = tier.get(key)
            if states is not None:
                if not tier.persistent:
                    tier.discard(key)
                    self._note(key)
                self._push(states)
                return states
        return None

    def _push(self, states: SegmentStates) -> None:
        """Insert at the top; what falls out of a tier goes to the next."""
        falling: list[SegmentStates] = [states]
        for tier in self.tiers:
            falling = [lost for one in falling for lost in tier.insert(one)]
