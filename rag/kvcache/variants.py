"""Chunks kept as they were computed in real prompts, in several variants each (Cache-Craft, arXiv:2502.15734)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from rag.kvcache.plan import Profile, fix_overhead, order_penalty, prefix_overlap, seen_before

__all__ = ["Choice", "Variant", "Variants"]

_DECAY = 0.98
"""What is left of a use's worth after one more prompt."""


@dataclass(slots=True)
class Variant:
    """A chunk's states in one context: the store knows them under `context`. worth: of its uses, at prompt `tick`."""

    context: str
    profile: Profile
    worth: float = 0.0
    tick: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """A variant for one place in a prompt: `overhead` is the share of its tokens to compute again, `of` how many there
    were to choose from."""

    variant: Variant
    new: tuple[str, ...]
    seen: float
    overhead: float
    of: int

    def __str__(self) -> str:
        profile, old = self.variant.profile, list(self.variant.profile.inter)
        common = len(set(old) & set(self.new))
        return (
            f"best of {self.of} variants: cached behind {len(old)} chunks, {common} of them among the {len(self.new)} "
            f"before it now (overlap {prefix_overlap(profile.inter, self.new):.2f}, order penalty "
            f"{order_penalty(old, self.new):.2f}, impact {profile.impact:.2f}, overhead {self.overhead:.2f})"
        )


class Variants:
    """Which variants of which chunks there are: at most `limit` of a chunk; safe under threads.

    A chunk is named by its segment and the instructions it stands behind. Each use of a variant is worth what it saves
    (1 - overhead), half of it after 34 prompts; for a new one, the variant that is worth least goes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: dict[tuple[str, str], list[Variant]] = {}
        self._tick = 0
        self._lock = threading.Lock()

    def of(self, chunk: tuple[str, str]) -> list[Variant]:
        """The variants of a chunk."""
        with self._lock:
            return list(self._kept.get(chunk, ()))

    def choices(self, chunk: tuple[str, str], new: Sequence[str], alpha: float) -> list[Choice]:
        """Those variants that have one of the chunks `new` before them, or none as now; the least overhead first."""
        variants = self.of(chunk)
        found = []
        for variant in variants:
            old = variant.profile.inter
            if set(old) & set(new) or not (old or new):
                seen = seen_before(old, new)
                overhead = fix_overhead(alpha, variant.profile.impact, seen)
                found.append(Choice(variant, tuple(new), seen, overhead, len(variants)))
        return sorted(found, key=lambda choice: choice.overhead)

    def used(self, choices: Sequence[Choice]) -> None:
        """Count one prompt and its uses."""
        with self._lock:
            self._tick += 1
            for choice in choices:
                choice.variant.worth = self._worth(choice.variant) + 1 - choice.overhead
                choice.variant.tick = self._tick

    def add(self, chunk: tuple[str, str], context: str, profile: Profile) -> str | None:
        """Keep a new variant; returns the context of the one that has to go for it, if any."""
        with self._lock:
            kept = self._kept.setdefault(chunk, [])
            kept[:] = [variant for variant in kept if variant.context != context]
            gone = min(kept, key=self._worth) if len(kept) >= self.limit else None
            if gone is not None:
                kept.remove(gone)
            kept.append(Variant(context, profile, 1.0, self._tick))
            return None if gone is None else gone.context

    def forget(self, chunk: tuple[str, str], context: str) -> None:
        """Drop a variant that the store no longer has."""
        with self._lock:
            kept = self._kept.get(chunk, [])
            kept[:] = [variant for variant in kept if variant.context != context]
            if not kept:
                self._kept.pop(chunk, None)

    def arranged(self, chunks: Sequence[tuple[str, str]]) -> list[int]:
        """An order of these chunks in which each stands behind what one of its variants has seen, greedily.

        Of equally good ones the first comes first.
        """
        order: list[int] = []
        left = list(range(len(chunks)))
        while left:
            new = [chunks[at][0] for at in order]
            best = max(left, key=lambda at: max((c.seen for c in self.choices(chunks[at], new, 1.0)), default=0.0))
            order.append(best)
            left.remove(best)
        return order

    def _worth(self, variant: Variant) -> float:
        return variant.worth * float(_DECAY ** (self._tick - variant.tick))
