"""What was reused and what was computed for one prompt, and why."""

from __future__ import annotations

from dataclasses import dataclass

from rag.kvcache.segments import Kind

__all__ = ["Report", "SegmentReport"]


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """One segment: its tokens, how many came from the store, how many the model ran over in this prompt, and why.

    `reused + recomputed` is `tokens`. `stored`: tokens first computed for the store, of the segment and, with
    `CacheCraft`, once more behind each rehearsal.
    `overhead`: the share of a reused chunk that its kept states ask to compute again (see `CacheCraft`), else 0.
    """

    kind: Kind
    tokens: int
    reused: int
    recomputed: int
    stored: int
    why: str
    overhead: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """One prompt, segment by segment.

    strategy: its name. exact: whether the logits are those of a full prefill, up to rounding. checked: tokens times
    layers that were computed only to choose what to recompute, divided by all layers.
    """

    strategy: str
    exact: bool
    segments: tuple[SegmentReport, ...]
    checked: float = 0.0

    @property
    def tokens(self) -> int:
        """Of the whole prompt."""
        return sum(segment.tokens for segment in self.segments)

    @property
    def reused(self) -> int:
        """Tokens whose states came out of the store."""
        return sum(segment.reused for segment in self.segments)

    @property
    def recomputed(self) -> int:
        """Tokens the model ran over in this prompt."""
        return sum(segment.recomputed for segment in self.segments)

    @property
    def stored(self) -> int:
        """Tokens that were missing in the store and were first computed for it."""
        return sum(segment.stored for segment in self.segments)

    @property
    def hits(self) -> int:
        """Chunks whose states were in the store when this prompt came."""
        return sum(segment.kind == "chunk" and segment.reused > 0 and not segment.stored for segment in self.segments)

    @property
    def misses(self) -> int:
        """Chunks of which that is not so."""
        return sum(segment.kind == "chunk" for segment in self.segments) - self.hits

    @property
    def work(self) -> float:
        """Tokens computed, for the store and to choose included, as a share of the prompt: 1 is a full prefill."""
        return (self.recomputed + self.checked + self.stored) / self.tokens

    def __str__(self) -> str:
        lines = [
            f"{self.strategy}: {self.reused} of {self.tokens} tokens reused, {self.recomputed} computed; "
            f"work {self.work:.2f} of a full prefill; {'exact' if self.exact else 'approximate'}"
        ]
        for number, segment in enumerate(self.segments):
            lines.append(f"  {number} {segment.kind}, {segment.tokens} tokens: {segment.why}")
        return "\n".join(lines)
