"""Which tokens of cached chunks are computed again: the strategies of the literature under one interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.errors import ConfigError, did_you_mean
from rag.kvcache.plan import highest
from rag.kvcache.segments import Segment

__all__ = [
    "STRATEGIES",
    "CacheBlend",
    "CacheCraft",
    "CachedChunk",
    "Draft",
    "First",
    "Full",
    "Naive",
    "Prefix",
    "Reuse",
    "Share",
    "Strategy",
    "as_strategy",
]

Reuse: TypeAlias = Literal["nothing", "prefix", "chunks"]


@dataclass(frozen=True, slots=True)
class CachedChunk:
    """Cached states of a chunk in a prompt: tokens [start, stop); `exact`: what stands before is what stood before.

    overhead: the share of its tokens to compute again, and scores: float32[tokens], which of them first, the highest;
    both as `CacheCraft` has them kept, else 0 and None.
    """

    id: str
    start: int
    stop: int
    exact: bool
    overhead: float = 0.0
    scores: NDArray[np.float32] | None = None


class Draft(Protocol):
    """A prompt whose cached chunks are in their places, as a strategy sees it."""

    @property
    def chunks(self) -> Sequence[CachedChunk]:
        """The cached chunks in the prompt's order."""
        ...

    @property
    def check_layer(self) -> int:
        """The first layer that follows one with full attention: it can tell what other chunks do to a token."""
        ...

    def deviation(self, layer: int) -> NDArray[np.float64]:
        """float64[tokens]: squared distance between cached and true values of a layer, 0 for what is not cached.

        This runs the layers before it on all tokens that may differ, and puts what it computed in the place of the
        cached states of these layers.
        """
        ...


class Strategy(Protocol):
    """What is taken from the store (`reuse`), and which tokens of it are computed again.

    `nothing`: no store. `prefix`: leading segments that an earlier prompt began with as well; exact. `chunks`: every
    chunk, as it was computed alone behind the instructions (`CacheCraft` has other ways); exact where it stands there
    again.
    """

    @property
    def name(self) -> str: ...

    @property
    def reuse(self) -> Reuse: ...

    def recompute(self, draft: Draft) -> NDArray[np.int64]:
        """Positions in the prompt, int64[n], within chunks that are not exact; asked with reuse `chunks` only."""
        ...


@dataclass(frozen=True)
class _Exact:
    """A strategy that leaves nothing to repair."""

    def recompute(self, draft: Draft) -> NDArray[np.int64]:
        return np.empty(0, np.int64)


@dataclass(frozen=True)
class Full(_Exact):
    """Compute everything: the reference."""

    name: ClassVar[str] = "full"
    reuse: ClassVar[Reuse] = "nothing"


@dataclass(frozen=True)
class Prefix(_Exact):
    """Reuse the longest run of leading segments that is in the store; exact.

    A chain of names, each a hash of the one before and of the segment, makes a radix tree over segments without
    pointers: what two prompts begin with in common has the same names.
    """

    name: ClassVar[str] = "prefix"
    reuse: ClassVar[Reuse] = "prefix"


@dataclass(frozen=True)
class Naive(_Exact):
    """Reuse every chunk as it is at its new position: no chunk knows of another one."""

    name: ClassVar[str] = "naive"
    reuse: ClassVar[Reuse] = "chunks"


@dataclass(frozen=True)
class Share:
    """Compute a share of every chunk's tokens again, drawn at random: what any choice of tokens must beat.

    The draw depends on the chunk alone.
    """

    share: float = 0.15
    name: ClassVar[str] = "share"
    reuse: ClassVar[Reuse] = "chunks"

    def __post_init__(self) -> None:
        _check_share(self.share)

    def recompute(self, draft: Draft) -> NDArray[np.int64]:
        """So many positions of each chunk."""
        chosen = []
        for chunk in _inexact(draft):
            order = np.random.default_rng(int(chunk.id[:16], 16)).permutation(chunk.stop - chunk.start)
            chosen.append(chunk.start + order[: _part(self.share, len(order))])
        return _joined(chosen)


@dataclass(frozen=True)
class First:
    """Compute the first tokens of every chunk again (EPIC's LegoLink, arXiv:2410.15332): `tokens`, or else a `share`.

    A chunk that was computed alone takes its own first tokens for the beginning of the text, and they draw attention
    that the real beginning should have.
    """

    tokens: int | None = None
    share: float = 0.15
    name: ClassVar[str] = "first"
    reuse: ClassVar[Reuse] = "chunks"

    def __post_init__(self) -> None:
        _check_share(self.share)
        if self.tokens is not None and self.tokens < 0:
            raise ConfigError(f"first: tokens is {self.tokens}, expected 0 or more")

    def recompute(self, draft: Draft) -> NDArray[np.int64]:
        """The first positions of each chunk."""
        chosen = []
        for chunk in _inexact(draft):
            length = chunk.stop - chunk.start
            count = _part(self.share, length) if self.tokens is None else min(self.tokens, length)
            chosen.append(np.arange(chunk.start, chunk.start + count))
        return _joined(chosen)


@dataclass(frozen=True)
class CacheBlend:
    """Compute those tokens again whose values in an early layer differ most from the cached ones (arXiv:2405.16444).

    The layers before `check_layer` run on all tokens behind the first chunk; then the `share` of all tokens of chunks
    with the largest squared difference is chosen, over all chunks together. `check_layer` None takes the first layer
    behind one with full attention: layer 1, but later where the first layers see only a window. One choice, kept for
    all later layers, as the authors' code does; their paper narrows it layer by layer.
    """

    share: float = 0.15
    check_layer: int | None = None
    name: ClassVar[str] = "cacheblend"
    reuse: ClassVar[Reuse] = "chunks"

    def __post_init__(self) -> None:
        _check_share(self.share)
        if self.check_layer is not None and self.check_layer < 1:
            raise ConfigError(f"cacheblend: check_layer is {self.check_layer}, expected 1 or more")

    def recompute(self, draft: Draft) -> NDArray[np.int64]:
        """The positions that deviate most."""
        chunks = _inexact(draft)
        if not chunks or not self.share:
            return np.empty(0, np.int64)
        positions = _joined([np.arange(chunk.start, chunk.stop) for chunk in chunks])
        deviation = draft.deviation(self.check_layer or draft.check_layer)[positions]
        return positions[np.argsort(-deviation, kind="stable")[: _part(self.share, len(positions))]]


@dataclass(frozen=True)
class CacheCraft:
    """Compute those tokens of each chunk again that depend most on the chunks before them (Cache-Craft, SIGMOD 2025,
    arXiv:2502.15734); which ones is known with what is kept of the chunk, and costs nothing at the time of a prompt.

    Args:
        share: of each chunk, computed again. With variants it is what a chunk would need that has seen nothing of
            what stands before it; one that has needs less (the paper's alpha is twice this share).
        rehearsals: a chunk is kept as the mean of its states behind the instructions and each of these contexts, and a
            token counts by how far that is from its states without them. Best are a few, of two chunks of the same
            collection each, in the same form (`rehearsals_of`). None: two passages of made-up prose; without a
            tokenizer, tokens drawn at random.
        variants: 0, or the paper's own form with at most so many variants of a chunk: a chunk is kept as real prompts
            compute it behind real chunks, scored by attention, and the variant that lost least is taken. Results then
            depend on earlier prompts and on what the store has dropped; `rehearsals` have no part in it.
    """

    share: float = 0.1
    rehearsals: Sequence[Sequence[Segment]] | None = None
    variants: int = 0
    name: ClassVar[str] = "cachecraft"
    reuse: ClassVar[Reuse] = "chunks"

    def __post_init__(self) -> None:
        _check_share(self.share)
        if self.variants < 0:
            raise ConfigError(f"cachecraft: variants is {self.variants}, expected 0 or more")
        if self.rehearsals is not None and not (self.rehearsals and all(self.rehearsals)):
            raise ConfigError("cachecraft: a rehearsal without segments", hint="None takes passages of made-up prose")

    def recompute(self, draft: Draft) -> NDArray[np.int64]:
        """The positions with the highest scores of each chunk."""
        return _joined(
            [
                chunk.start + highest(chunk.scores, chunk.overhead)
                for chunk in _inexact(draft)
                if chunk.scores is not None
            ]
        )


STRATEGIES: dict[str, Callable[..., Strategy]] = {
    kind.name: kind for kind in (Full, Prefix, Naive, Share, First, CacheBlend, CacheCraft)
}


def as_strategy(strategy: str | Strategy, **settings: Any) -> Strategy:
    """A strategy by its name with these settings, or the one that is given; ConfigError for an unknown name."""
    if not isinstance(strategy, str):
        return strategy
    if strategy not in STRATEGIES:
        raise ConfigError(f"no strategy {strategy!r} for cached chunks", hint=did_you_mean(strategy, STRATEGIES))
    return STRATEGIES[strategy](**settings)


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of tokens to compute again is {share}, expected 0 to 1")


def _part(share: float, of: int) -> int:
    return math.ceil(share * of - 1e-9)


def _inexact(draft: Draft) -> list[CachedChunk]:
    return [chunk for chunk in draft.chunks if not chunk.exact]


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
