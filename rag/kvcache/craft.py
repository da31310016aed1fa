"""One prompt whose chunks come from variants, or become variants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import ModelError
from rag.kvcache.adapter import ModelAdapter
from rag.kvcache.plan import profile_of
from rag.kvcache.request import Request
from rag.kvcache.segments import Piece, then
from rag.kvcache.store import StateKey, StateStore
from rag.kvcache.variants import Choice, Variants

__all__ = ["VariantRequest"]


class VariantRequest(Request):
    """A prompt that takes of each chunk the variant with the least overhead, and keeps chunks as it computes them.

    A chunk of which no variant stood behind any of the chunks before it now is computed in full in its place and
    becomes a variant, with a profile of its attention.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        store: StateStore,
        model: str,
        pieces: Sequence[Piece],
        share: float,
        variants: Variants,
    ) -> None:
        super().__init__(adapter, store, model, pieces)
        self._alpha = 2 * share
        self._variants = variants
        self._chosen: dict[int, Choice] = {}

    def fetch_chunk(self, at: int) -> None:
        """Take the best variant that the store has."""
        piece = self.pieces[at]
        choices = self._variants.choices(self._chunk(at), self._before(at), self._alpha)
        for choice in sorted(choices, key=lambda choice: choice.variant.context != piece.before):  # an exact one first
            states = self.get(piece, choice.variant.context)
            if states is not None:
                self.states[at], self._chosen[at] = states, choice
                return
            self._variants.forget(self._chunk(at), choice.variant.context)

    def overhead(self, at: int) -> float:
        """Of the variant that was taken."""
        return self._chosen[at].overhead if at in self._chosen else 0.0

    def run(self, positions: NDArray[np.int64]) -> Any:
        """Compute these positions; the chunks among them are kept."""
        self._variants.used(list(self._chosen.values()))
        new = [at for at, piece in enumerate(self.pieces) if piece.kind == "chunk" and at not in self.states]
        if not new:
            return super().run(positions)
        import torch

        from rag.kvcache.attention import AttentionSums

        sizes = [len(piece.tokens) for piece in self.pieces]
        sums = AttentionSums(torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(self.adapter.device))
        with sums:
            logits = self.assembly.run(positions, masked=True)
        if len(sums.layers) != len(self.adapter.shapes):
            raise ModelError(
                f"the attention of {len(sums.layers)} of {len(self.adapter.shapes)} layers could be followed",
                hint="CacheCraft without variants needs none",
            )
        attention = torch.stack(sums.layers).mean(0).cpu().numpy()
        self._keep(new, np.unique(positions), attention, sizes)
        return logits

    def _keep(
        self, new: Sequence[int], positions: NDArray[np.int64], attention: NDArray[np.float32], sizes: Sequence[int]
    ) -> None:
        exact = True  # whether all before a piece is as in a full prefill
        for at, piece in enumerate(self.pieces):
            start, stop = np.searchsorted(positions, [piece.start, piece.stop])
            if at in new:
                groups: dict[str, list[int]] = {}
                for earlier in range(at):
                    if self.pieces[earlier].kind == "chunk":
                        groups.setdefault(self.pieces[earlier].id, []).append(earlier)
                profile, scores = profile_of(attention[start:stop], groups, at, sizes)
                context = piece.before if exact else then(piece.before, "behind cached chunks")
                self.put(piece, context, *self.assembly.states(piece.start, piece.stop), scores=scores)
                gone = self._variants.add(self._chunk(at), context, profile)
                if gone is not None:
                    self.store.discard(StateKey(piece.id, gone))
            elif at in self.states:
                whole = stop - start == len(piece.tokens)
                exact = exact and (whole or self.states[at].key.context == piece.before)

    def _chunk(self, at: int) -> tuple[str, str]:
        return self.pieces[at].id, self.context

    def _before(self, at: int) -> list[str]:
        return list(dict.fromkeys(piece.id for piece in self.pieces[:at] if piece.kind == "chunk"))

    def _why_reused(self, at: int) -> str:
        return str(self._chosen[at]) if at in self._chosen else super()._why_reused(at)

    def _why_computed(self, at: int) -> str:
        if self.pieces[at].kind != "chunk":
            return super()._why_computed(at)
        known = len(self._variants.of(self._chunk(at)))
        return f"no variant of it stood behind any of the chunks before it; kept as one ({known} now)"
