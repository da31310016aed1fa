"""One prompt on its way through the manager: states out of the store or into it, and the prompt put together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.kvcache.adapter import ModelAdapter
from rag.kvcache.assembly import Assembly
from rag.kvcache.segments import Piece, head_context, head_length
from rag.kvcache.store import SegmentStates, StateKey, StateStore
from rag.kvcache.strategies import CachedChunk

__all__ = ["Request"]

log = logging.getLogger("rag.kvcache")

States: TypeAlias = tuple[Sequence[Any], Sequence[Any]]
"""Keys without positions and values, a tensor [heads, tokens, d] for each layer."""


class Request:
    """A prompt, what of its pieces the store has, and its assembly; a `Draft` for strategies once it is placed.

    states: of each piece that is reused. stored: for each piece the tokens that were computed for the store because
    they were missing. checked: tokens times layers computed only to choose, divided by all layers. context: what names
    the instructions that open the prompt, behind which chunks are cached. Other ways to keep chunks are subclasses.
    """

    def __init__(self, adapter: ModelAdapter, store: StateStore, model: str, pieces: Sequence[Piece]) -> None:
        self.adapter = adapter
        self.store = store
        self.model = model
        self.pieces = pieces
        self.tokens = tuple(token for piece in pieces for token in piece.tokens)
        self.states: dict[int, SegmentStates] = {}
        self.stored = [0] * len(pieces)
        self.checked = 0.0
        self._missing: NDArray[np.int64] = np.arange(len(self.tokens))
        self._head = head_length(pieces)
        self.context = head_context(pieces)

    @cached_property
    def assembly(self) -> Assembly:
        """Keys and values of the prompt."""
        return Assembly(self.adapter, self.tokens)

    def names(self) -> list[StateKey]:
        """What it will ask the store for, as far as that is known beforehand."""
        head = [StateKey(piece.id, piece.before) for piece in self.pieces[: self._head]]
        return head + [self.name_of(piece) for piece in self.pieces if piece.kind == "chunk"]

    def name_of(self, piece: Piece) -> StateKey:
        """The states that it takes of a chunk."""
        return StateKey(piece.id, self.context)

    @property
    def chunks(self) -> list[CachedChunk]:
        """The reused chunks in the prompt's order."""
        return [
            CachedChunk(
                piece.id,
                piece.start,
                piece.stop,
                self.states[at].key.context == piece.before,
                self.overhead(at),
                self.states[at].extra.get("scores"),
            )
            for at, piece in enumerate(self.pieces)
            if at in self.states and piece.kind == "chunk"
        ]

    @property
    def check_layer(self) -> int:
        """The first layer that follows one with full attention."""
        return self.adapter.check_layer

    def deviation(self, layer: int) -> NDArray[np.float64]:
        """Squared distance between cached and true values of a layer, float64[tokens]; see `Draft`."""
        found = np.zeros(len(self.tokens))
        if inexact := [chunk for chunk in self.chunks if not chunk.exact]:
            last = inexact[-1].stop  # all before it that is not cached is computed as well: instructions behind a chunk
            positions = np.union1d(self._missing[self._missing < last], np.arange(inexact[0].start, last))
            self.assembly.compute(positions, layer)
            self.checked += len(positions) * layer / len(self.adapter.shapes)
        for at, states in self.states.items():
            start, stop = self.pieces[at].start, self.pieces[at].stop
            true = self.assembly.values[layer][0, :, start:stop]
            found[start:stop] = (
                (true - states.values[layer].to(true.device)).double().square().sum((0, 2)).cpu().numpy()
            )
        return found

    def find_prefix(self) -> None:
        """Take the longest run of leading pieces that the store has in this context."""
        for at, piece in enumerate(self._keepable()):
            states = self.get(piece, piece.before)
            if states is None:
                break
            self.states[at] = states
        for states in reversed(self.states.values()):  # so that the beginning, without which nothing is found,
            self.store.get(states.key)  # counts as used last

    def keep_prefix(self) -> None:
        """Store those leading pieces that were computed now."""
        for at, piece in reversed(list(enumerate(self._keepable()))):
            if at not in self.states:
                self.put(piece, piece.before, *self.assembly.states(piece.start, piece.stop))

    def fetch_chunks(self) -> None:
        """Take the opening instructions and every chunk; what is missing is computed as it is to be kept."""
        self._fetch_head()
        for at, piece in enumerate(self.pieces):
            if piece.kind == "chunk":
                self.fetch_chunk(at)

    def fetch_chunk(self, at: int) -> None:
        """Take one chunk, as it is computed alone behind the instructions."""
        self.states[at] = self.alone(self.pieces[at], at)

    def warm(self) -> int:
        """Make sure of all that prompts may need of the chunks; returns how many were not in the store."""
        self.fetch_chunks()
        return sum(self.stored[at] > 0 for at, piece in enumerate(self.pieces) if piece.kind == "chunk")

    def overhead(self, at: int) -> float:
        """The share of a chunk's tokens to compute again, where it is known with what is kept."""
        return 0.0

    def run(self, positions: NDArray[np.int64]) -> Any:
        """Compute these positions; the logits of the last one."""
        return self.assembly.run(positions)

    def explain(self, at: int, again: int) -> str:
        """How the states of a piece came about, `again` of its tokens computed in this prompt."""
        piece, states = self.pieces[at], self.states.get(at)
        if states is None:
            return f"computed: {self._why_computed(at)}"
        if states.key.context == piece.before:
            exact = "but the store has rounded it" if states.rounded else "which is exact"
            return f"reused: it stands behind the same segments as when it was cached, {exact}"
        return f"reused: {self._why_reused(at)}; {again} of {len(piece.tokens)} tokens computed again"

    def alone(self, piece: Piece, at: int) -> SegmentStates:
        """Tokens directly behind the opening instructions; computed where they are missing, on the account of `at`."""
        states = self.get(piece, self.context)
        if states is None:
            states = self.put(piece, self.context, *self.behind(piece, ()))
            self.stored[at] += len(piece.tokens)
        return states

    def behind(self, piece: Piece, others: Sequence[tuple[Piece, SegmentStates]]) -> States:
        """Compute the states of a piece behind the opening instructions and these pieces."""
        head = [(piece, self.states[at]) for at, piece in enumerate(self.pieces[: self._head])]
        leading = [*head, *others]
        tokens = [token for part, _ in leading for token in part.tokens]
        assembly = Assembly(self.adapter, (*tokens, *piece.tokens))
        start = 0
        for part, states in leading:
            assembly.place(start, states.keys, states.values)
            start += len(part.tokens)
        assembly.compute(np.arange(start, len(assembly)))
        return assembly.states(start, len(assembly))

    def place(self) -> NDArray[np.int64]:
        """Put all states that were found in their places; returns the positions that are still to be computed."""
        missing = np.ones(len(self.tokens), bool)
        for at in self.states:
            self._place(self.assembly, at, self.pieces[at].start)
            missing[self.pieces[at].start : self.pieces[at].stop] = False
        missing[-1] = True  # for the logits
        self._missing = np.flatnonzero(missing)
        return self._missing

    def _keepable(self) -> Sequence[Piece]:
        """The leading pieces that may be stored: those before the first question."""
        first = next((at for at, piece in enumerate(self.pieces) if piece.kind == "question"), len(self.pieces))
        return self.pieces[:first]

    def _fetch_head(self) -> None:
        """Take the opening instructions, computed where they are missing."""
        head = self.pieces[: self._head]
        length = head[-1].stop if head else 0
        for at, piece in enumerate(head):
            if (states := self.get(piece, piece.before)) is not None:
                self.states[at] = states
        if lacking := [at for at in range(len(head)) if at not in self.states]:
            alone = Assembly(self.adapter, self.tokens[:length])
            for at in self.states:
                self._place(alone, at, head[at].start)
            alone.compute(np.concatenate([np.arange(head[at].start, head[at].stop) for at in lacking]))
            for at in lacking:
                self.states[at] = self.put(head[at], head[at].before, *alone.states(head[at].start, head[at].stop))
                self.stored[at] = len(head[at].tokens)

    def _place(self, assembly: Assembly, at: int, start: int) -> None:
        assembly.place(start, self.states[at].keys, self.states[at].values)

    def get(self, piece: Piece, context: str) -> SegmentStates | None:
        """The states of a piece in a context, if the store has them undamaged."""
        key = StateKey(piece.id, context)
        states = self.store.get(key)
        if states is None:
            return None
        if fault := states.fault(key, self.model, self.adapter.shapes, len(piece.tokens), self.adapter.dtype):
            log.warning("stored keys and values of a segment are refused and computed again: %s", fault)
            self.store.discard(key)
            return None
        return states

    def put(
        self, piece: Piece, context: str, keys: Sequence[Any], values: Sequence[Any], **extra: NDArray[Any]
    ) -> SegmentStates:
        """Store the states of a piece in a context."""
        states = SegmentStates(StateKey(piece.id, context), self.model, tuple(keys), tuple(values), extra=extra)
        self.store.put(states)
        return states

    def _why_computed(self, at: int) -> str:
        if self.pieces[at].kind == "question":
            return "a question is new in every prompt"
        return "instructions behind a chunk"

    def _why_reused(self, at: int) -> str:
        return "cached alone behind the instructions"
