"""Keys and values of segments in a folder, for all processes that share it and for those that come later."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag.kvcache.codec import Codec, check_codec, decode, encode
from rag.kvcache.directory import Directory
from rag.kvcache.entry import Unreadable
from rag.kvcache.eviction import Eviction
from rag.kvcache.store import SegmentStates, StateKey

__all__ = ["DiskEntry", "DiskStore"]

log = logging.getLogger("rag.kvcache")


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """What a folder tells of stored states. uses: times they were put or found; used: when last, a time stamp."""

    key: StateKey
    model: str
    codec: str
    tokens: int
    nbytes: int
    uses: int
    used: float


class DiskStore:
    """States in a folder within a budget of bytes; the least useful go first, whichever process put them there.

    Args:
        path: a folder of its own, which is made.
        budget: bytes of all files at most, for all processes that name the same one.
        codec: `computed` keeps every bit. `float16`, `bfloat16` and `int8` (keys by channel, values by token) round;
            states that come back rounded say so (`SegmentStates.rounded`), in the type they were computed in.
        eviction: as in MemoryStore.

    Each states are a file of their own, which appears complete or not at all. All bytes that come back have passed a
    checksum; what does not, or is not what its name says, is deleted, logged and not returned. A full disk is logged,
    and nothing more is stored until there is room. Safe under threads and processes, and when one is killed.
    Raises ConfigError for a folder that cannot be written to or an unknown codec or policy, InputError for a budget
    below 0.
    """

    persistent = True

    def __init__(
        self, path: str | Path, budget: int = 8 << 30, *, codec: Codec = "computed", eviction: Eviction = "benefit"
    ) -> None:
        check_codec(codec)
        self.path = Path(path)
        self.budget = budget
        self.codec: Codec = codec
        self.hits = 0
        self._directory = Directory(self.path, budget, eviction)

    def __len__(self) -> int:
        return len(self._directory.names())

    def __contains__(self, key: StateKey) -> bool:
        return self._directory.usage(_name(key)) is not None

    @property
    def nbytes(self) -> int:
        """Bytes of all files now, never more than the budget of who wrote last."""
        return self._directory.nbytes

    def file(self, key: StateKey) -> Path:
        """Where states of that name are, if they are kept."""
        return self.path / f"{_name(key)}.states"

    def get(self, key: StateKey) -> SegmentStates | None:
        """The states of that name on the CPU, which now count as used once more, or None."""
        found = self._directory.read(_name(key))
        if found is None:
            return None
        try:
            states = decode(*found)
            if states.key != key:
                raise Unreadable("it holds states of another name")
        except Unreadable as reason:
            log.warning("stored keys and values in %s are dropped: %s", self.file(key), reason)
            self.discard(key)
            return None
        self.hits += 1
        return states

    def put(self, states: SegmentStates) -> None:
        """Keep these states; others make room. Nothing is written where the same are there."""
        self.insert(states)

    def insert(self, states: SegmentStates) -> Sequence[SegmentStates]:
        """As `put`; what makes room is deleted and not returned."""
        name = _name(states.key)
        if not self._holds(name, states):
            self._directory.write(name, states.tokens, *encode(states, self.codec))
        return ()

    def discard(self, key: StateKey) -> None:
        """Drop the states of that name, if there are any."""
        self._directory.remove(_name(key))

    def touch(self, key: StateKey, times: int = 1) -> None:
        """The states of that name, if there are any, were used so many times more, though they were found elsewhere."""
        self._directory.touch(_name(key), times)

    def clear(self) -> int:
        """Drop everything; returns how many states that were."""
        return self._directory.clear()

    def entries(self) -> Iterator[DiskEntry]:
        """What is there, in no particular order; damaged files are dropped on the way."""
        for name in self._directory.names():
            head, usage = self._directory.head(name), self._directory.usage(name)
            if head is not None and usage is not None:
                key = StateKey(head.get("segment", ""), head.get("context", ""))
                facts = (usage.tokens, usage.nbytes, usage.uses, usage.used)
                yield DiskEntry(key, head.get("model", ""), head.get("codec", ""), *facts)

    def _holds(self, name: str, states: SegmentStates) -> bool:
        """Whether the file has these states, or those that these were rounded from."""
        head = self._directory.head(name)
        if head is None or [head.get(part) for part in ("segment", "context", "model")] != [*states.key, states.model]:
            return False
        if states.rounded:
            return True
        same = head.get("checksum") == states.checksum
        return same and (not head.get("rounded", True) or head.get("codec") == self.codec)


def _name(key: StateKey) -> str:
    return hashlib.sha256(f"{key.segment}\0{key.context}".encode()).hexdigest()[:40]
