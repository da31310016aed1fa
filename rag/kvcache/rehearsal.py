"""Chunks kept as they are computed behind texts that stand for the chunks of real prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.kvcache.adapter import ModelAdapter
from rag.kvcache.plan import fix_overhead
from rag.kvcache.request import Request, States
from rag.kvcache.segments import Piece, segment_id, then
from rag.kvcache.store import SegmentStates, StateStore

__all__ = ["PASSAGES", "RehearsedRequest"]

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


class RehearsedRequest(Request):
    """A prompt whose chunks are kept twice: computed alone behind the instructions, and behind other texts.

    Directly behind the instructions a chunk is taken as it was alone, which is exact. Elsewhere the mean of its states
    behind each of the `rehearsals` (token ids) is taken. The score of a token is how far that is from its states alone:
    the squared distance of keys and values, relative to their variance over the chunk, averaged over layers. All of
    it follows from the chunk, the instructions and the rehearsals.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        store: StateStore,
        model: str,
        pieces: Sequence[Piece],
        share: float,
        rehearsals: Sequence[tuple[int, ...]],
    ) -> None:
        super().__init__(adapter, store, model, pieces)
        self._overhead = fix_overhead(2 * share, 0.5, 0.0)
        self._rehearsals = [Piece("chunk", text, 0, segment_id(model, text), self.context) for text in rehearsals]
        self._behind_rehearsals = then(self.context, "rehearsed")
        for rehearsal in self._rehearsals:
            self._behind_rehearsals = then(self._behind_rehearsals, rehearsal.id)

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
            takes = [self.behind(piece, [(text, self.alone(text, at))]) for text in self._rehearsals]
            self.stored[at] += len(takes) * len(piece.tokens)
            mean = _mean(takes)
            states = self.put(piece, self._behind_rehearsals, *mean, scores=_distance((alone.keys, alone.values), mean))
        return states

    def _why_reused(self, at: int) -> str:
        count = len(self._rehearsals)
        return f"cached behind the instructions and {count} rehearsal{'s' * (count > 1)}"


def _mean(takes: Sequence[States]) -> States:
    """Of states computed in several contexts."""

    def mean(parts: Sequence[Any]) -> Any:
        return parts[0] if len(parts) == 1 else (sum(part.float() for part in parts) / len(parts)).to(parts[0].dtype)

    return tuple(
        tuple(mean([take[half][layer] for take in takes]) for layer in range(len(takes[0][half]))) for half in (0, 1)
    )  # type: ignore[return-value]


def _distance(one: States, other: States) -> NDArray[np.float32]:
    """float32[tokens]: how far two computations of the same tokens are apart; see `RehearsedRequest`."""
    found: Any = 0.0
    for a, b in zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True):
        a, b = a.float(), b.float()
        spread = b.var(1, correction=0).sum() + 1e-12
        found = found + (a - b).square().sum((0, 2)) / spread
    return np.asarray((found / len(one[0])).cpu().numpy(), np.float32)
