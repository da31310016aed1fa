"""Chunks kept as they are computed behind texts that stand for the chunks of real prompts."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError
from rag.kvcache.adapter import ModelAdapter
from rag.kvcache.plan import fix_overhead
from rag.kvcache.request import Request, States
from rag.kvcache.segments import Piece, Segment, segment_id, then
from rag.kvcache.store import SegmentStates, StateKey, StateStore

__all__ = ["PASSAGES", "RehearsedRequest", "rehearsals_of"]

PASSAGES = (
    "The town lies where two small rivers meet, about forty kilometres from the coast. It was first mentioned in 1187 "
    "and received its charter some eighty years later. In 2011 it had 23,400 inhabitants, most of whom worked in "
    "trade, in the hospital or at the university. A market is held every Saturday, and the old bridge was rebuilt "
    "after the flood of 1954.\n\n",
    "Light is absorbed when the energy of a photon agrees with the difference between two levels of an atom. The "
    "colour of a material is therefore determined by its electrons. Researchers measured this effect in 1923 with a "
    "simple prism, and later with lasers. For example, sodium shows two close lines in the yellow part of the "
    "spectrum, which are used as a standard.\n\n",
)
"""What stands before a chunk where no rehearsals are given; made up."""


def rehearsals_of(chunks: Iterable[Segment], contexts: int = 3) -> list[list[Segment]]:
    """Contexts for `CacheCraft` out of a collection's own chunks: pairs of those whose hashes are the least.

    So the order of the chunks makes no difference, and more chunks rarely do. Fewer contexts where there are too few
    chunks; InputError where there are none.
    """

    def by_hash(chunk: Segment) -> bytes:
        return hashlib.sha256(repr((chunk.text, chunk.tokens)).encode()).digest()

    chosen = heapq.nsmallest(2 * contexts, set(chunks), key=by_hash)
    if not chosen:
        raise InputError("there are no chunks to rehearse others behind", hint="CacheCraft() has passages of its own")
    return [chosen[at : at + 2] for at in range(0, len(chosen), 2)]


class RehearsedRequest(Request):
    """A prompt whose chunks are kept twice: computed alone behind the instructions, and behind other texts.

    Directly behind the instructions a chunk is taken as it was alone, which is exact. Elsewhere the mean of its states
    behind each of the `rehearsals` is taken, but those that hold the chunk itself: a copy is not read like a text. The
    score of a token is how far that is from its states alone: the squared distance of keys and values, relative to
    their variance over the chunk, averaged over layers. All of it follows from the chunk, the instructions and the
    rehearsals, which are given as the token ids of their parts.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        store: StateStore,
        model: str,
        pieces: Sequence[Piece],
        share: float,
        rehearsals: Sequence[Sequence[tuple[int, ...]]],
    ) -> None:
        super().__init__(adapter, store, model, pieces)
        self._overhead = fix_overhead(2 * share, 0.5, 0.0)  # nothing seen of a real prompt; the least impact there is
        self._rehearsals: list[tuple[Piece, Sequence[tuple[int, ...]]]] = []
        self._behind_rehearsals = then(self.context, "rehearsed")
        for parts in rehearsals:
            joined = tuple(token for part in parts for token in part)
            text = Piece("chunk", joined, 0, segment_id(model, joined), self.context)
            self._rehearsals.append((text, parts))
            self._behind_rehearsals = then(self._behind_rehearsals, text.id)

    def name_of(self, piece: Piece) -> StateKey:
        """The states that it takes of a chunk."""
        return StateKey(piece.id, self.context if piece.before == self.context else self._behind_rehearsals)

    def fetch_chunk(self, at: int) -> None:
        """Take a chunk as it was alone where it stands alone, else as it was rehearsed."""
        if self.pieces[at].before == self.context:
            super().fetch_chunk(at)
        else:
            self.states[at] = self._rehearsed(at)

    def warm(self) -> int:
        """Make sure of the chunks alone and rehearsed; returns how many were not in the store."""
        super().warm()
        for at, piece in enumerate(self.pieces):
            if piece.kind == "chunk":
                self._rehearsed(at)
        return sum(self.stored[at] > 0 for at, piece in enumerate(self.pieces) if piece.kind == "chunk")

    def overhead(self, at: int) -> float:
        """The share that was asked for, of a chunk that stands behind others."""
        states = self.states.get(at)
        return 0.0 if states is None or states.key.context != self._behind_rehearsals else self._overhead

    def _rehearsed(self, at: int) -> SegmentStates:
        piece = self.pieces[at]
        states = self.get(piece, self._behind_rehearsals)
        if states is None:
            alone = self.alone(piece, at)
            texts = [text for text, parts in self._rehearsals if piece.tokens not in parts]
            takes = [self.behind(piece, [(text, self.alone(text, at))]) for text in texts]
            self.stored[at] += len(takes) * len(piece.tokens)
            mean = _mean(takes or [(alone.keys, alone.values)])
            states = self.put(piece, self._behind_rehearsals, *mean, scores=_distance((alone.keys, alone.values), mean))
        return states

    def _why_reused(self, at: int) -> str:
        count = len(self._rehearsals)
        return f"cached behind the instructions and {count} rehearsal{'s' * (count > 1)}"


def _mean(takes: Sequence[States]) -> States:
    """Of states computed in several contexts."""
    keys, values = zip(*takes, strict=True)
    return _layer_means(keys), _layer_means(values)


def _layer_means(takes: Sequence[Sequence[Any]]) -> Sequence[Any]:
    return [(sum(take.float() for take in layer) / len(layer)).to(layer[0].dtype) for layer in zip(*takes, strict=True)]


def _distance(one: States, other: States) -> NDArray[np.float32]:
    """float32[tokens]: how far two computations of the same tokens are apart; see `RehearsedRequest`."""
    found: Any = 0.0
    for a, b in zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True):
        a, b = a.to(b.device).float(), b.float()  # a store may have moved the first
        spread = b.var(1, correction=0).sum() + 1e-12
        found = found + (a - b).square().sum((0, 2)) / spread
    return np.asarray((found / len(one[0])).cpu().numpy(), np.float32)
