"""Which states go first when a store is full: three policies, and the order they give."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar, get_args

from rag.errors import ConfigError, did_you_mean

__all__ = ["Eviction", "Ranking", "Usage", "policy_of"]

Eviction: TypeAlias = Literal["benefit", "lru", "lfu"]
Key = TypeVar("Key")


@dataclass(slots=True)
class Usage:
    """What a store knows of an entry: how long its text is, what it takes, and how it was used.

    uses: times it was put or found. used: when it was last, by the store's clock. age: the store's age then.
    """

    tokens: int
    nbytes: int
    uses: int = 1
    used: float = 0.0
    age: float = 0.0


def benefit(usage: Usage) -> float:
    """Uses x tokens saved / bytes, from the store's age at the last use onwards.

    GreedyDual-Size with Frequency (Cherkasov, HP Labs HPL-98-69R1): priority = L + frequency x cost / size, where L is
    the priority of what was evicted last. What was once popular and is no longer asked for is overtaken as L grows.
    The cost is the tokens whose prefill a hit saves, so the order serves the rate at which tokens are found.
    """
    return usage.age + usage.uses * usage.tokens / max(usage.nbytes, 1)


_POLICIES: dict[str, Callable[[Usage], float]] = {
    "benefit": benefit,
    "lru": lambda usage: usage.used,
    "lfu": lambda usage: usage.uses,
}


def policy_of(eviction: Eviction) -> Callable[[Usage], float]:
    """The priority of an entry under a policy, the lowest goes first; ConfigError for an unknown name."""
    if eviction not in _POLICIES:
        raise ConfigError(f"no eviction policy {eviction!r}", hint=did_you_mean(eviction, get_args(Eviction)))
    return _POLICIES[eviction]


class Ranking(Generic[Key]):
    """Entries by the order in which they go, kept in a heap; of equal priority, that which was used longest ago.

    Time is counted in uses. What is pinned is known but never goes.
    """

    def __init__(self, eviction: Eviction) -> None:
        self._priority = policy_of(eviction)
        self._known: dict[Key, Usage] = {}
        self._pinned: set[Key] = set()
        self._heap: list[tuple[float, float, Key]] = []  # with places that are no longer true
        self._now = 0
        self._age = 0.0

    def add(self, key: Key, tokens: int, nbytes: int) -> None:
        """A new entry, used once."""
        self._known[key] = Usage(tokens, nbytes, 0)
        self.touch(key)

    def touch(self, key: Key) -> None:
        """An entry is used once more."""
        usage = self._known[key]
        self._now += 1
        usage.uses, usage.used, usage.age = usage.uses + 1, self._now, self._age
        self._push(key)

    def remove(self, key: Key) -> None:
        """Forget an entry."""
        del self._known[key]
        self._pinned.discard(key)

    def pin(self, key: Key, pinned: bool) -> None:
        """Keep an entry from going, or let it go again."""
        if pinned:
            self._pinned.add(key)
        elif key in self._pinned:
            self._pinned.discard(key)
            self._push(key)

    @property
    def pinned(self) -> frozenset[Key]:
        return frozenset(self._pinned)

    def evict(self) -> Key | None:
        """Forget the entry that goes first and return it; None where all are pinned."""
        while self._heap:
            priority, used, key = heapq.heappop(self._heap)
            usage = self._known.get(key)
            if usage is not None and usage.used == used and key not in self._pinned:
                self._age = max(self._age, priority)
                self.remove(key)
                return key
        return None

    def _push(self, key: Key) -> None:
        if len(self._heap) > 2 * len(self._known) + 64:
            self._heap = [self._place(known) for known in self._known]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, self._place(key))

    def _place(self, key: Key) -> tuple[float, float, Key]:
        usage = self._known[key]
        return self._priority(usage), usage.used, key
