"""One prompt on its way through the manager: states out of the store or into it, and the prompt put together."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rag.kvcache.adapter import ModelAdapter
from rag.kvcache.assembly import Assembly
from rag.kvcache.segments import Piece, head_length, then
from rag.kvcache.store import SegmentStates, StateKey, StateStore
from rag.kvcache.strategies import CachedChunk

__all__ = ["Request"]

log = logging.getLogger("rag.kvcache")


class Request:
    """A prompt, what of its pieces the store has, and its assembly; a `Draft` for strategies once it is placed.

    states: of each piece that is reused. stored: for each piece the tokens that were computed for the store because
    they were missing. checked: tokens times layers computed only to choose, divided by all layers.
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
        self.assembly = Assembly(adapter, self.tokens)
        self._missing: NDArray[np.int64] = np.arange(len(self.tokens))
        self._head = head_length(pieces)
        self._context = then(pieces[self._head - 1].before, pieces[self._head - 1].id) if self._head else ""

    @property
    def chunks(self) -> list[CachedChunk]:
        """The reused chunks in the prompt's order."""
        return [
            CachedChunk(piece.id, piece.start, piece.stop, self.states[at].key.context == piece.before)
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
            states = self._get(piece, piece.before)
            if states is None:
                break
            self.states[at] = states
        for states in reversed(self.states.values()):  # so that the beginning, without which nothing is found,
            self.store.get(states.key)  # counts as used last

    def keep_prefix(self) -> None:
        """Store those leading pieces that were computed now."""
        for at, piece in reversed(list(enumerate(self._keepable()))):
            if at not in self.states:
                self._put(piece, piece.before, self.assembly)

    def fetch_chunks(self) -> None:
        """Take the opening instructions and every chunk; what is missing is computed behind the instructions alone."""
        head = self._fetch_head()
        for at, piece in enumerate(self.pieces):
            if piece.kind != "chunk":
                continue
            states = self._get(piece, self._context)
            if states is None:
                alone = Assembly(self.adapter, (*self.tokens[:head], *piece.tokens))
                for number in range(self._head):
                    self._place(alone, number, self.pieces[number].start)
                alone.compute(np.arange(head, len(alone)))
                states = self._put(piece, self._context, alone, head)
                self.stored[at] = len(piece.tokens)
            self.states[at] = states

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

    def _fetch_head(self) -> int:
        """Take the opening instructions, computed where they are missing; returns how many tokens they are."""
        head = self.pieces[: self._head]
        length = head[-1].stop if head else 0
        for at, piece in enumerate(head):
            if (states := self._get(piece, piece.before)) is not None:
                self.states[at] = states
        if lacking := [at for at in range(len(head)) if at not in self.states]:
            alone = Assembly(self.adapter, self.tokens[:length])
            for at in self.states:
                self._place(alone, at, head[at].start)
            alone.compute(np.concatenate([np.arange(head[at].start, head[at].stop) for at in lacking]))
            for at in lacking:
                self.states[at] = self._put(head[at], head[at].before, alone)
                self.stored[at] = len(head[at].tokens)
        return length

    def _place(self, assembly: Assembly, at: int, start: int) -> None:
        assembly.place(start, self.states[at].keys, self.states[at].values)

    def _get(self, piece: Piece, context: str) -> SegmentStates | None:
        key = StateKey(piece.id, context)
        states = self.store.get(key)
        if states is None:
            return None
        if fault := states.fault(key, self.model, self.adapter.shapes, len(piece.tokens), self.adapter.dtype):
            log.warning("stored keys and values of a segment are refused and computed again: %s", fault)
            self.store.discard(key)
            return None
        return states

    def _put(self, piece: Piece, context: str, assembly: Assembly, start: int | None = None) -> SegmentStates:
        start = piece.start if start is None else start
        keys, values = assembly.states(start, start + len(piece.tokens))
        states = SegmentStates(StateKey(piece.id, context), self.model, keys, values)
        self.store.put(states)
        return states
