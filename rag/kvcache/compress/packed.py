"""Stored states of a segment in fewer bytes: neighbours that are alike share keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rag.errors import InputError
from rag.kvcache.compress.groups import SINKS, count_of, runs_of
from rag.kvcache.store import SegmentStates, StateKey

__all__ = ["PackedStates", "pack"]


@dataclass(frozen=True, eq=False)
class PackedStates:
    """States of a segment of which runs of tokens share one key and value for each head of each layer.

    keys, values: [heads, m, d] for each layer. slots: int32[heads, tokens] for each layer, which of them a token has.
    """

    key: StateKey
    model: str
    keys: tuple[Any, ...]
    values: tuple[Any, ...]
    slots: tuple[Any, ...]

    @property
    def tokens(self) -> int:
        return int(self.slots[0].shape[1])

    @property
    def nbytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in (*self.keys, *self.values, *self.slots))

    def unpack(self) -> SegmentStates:
        """States of all tokens, as a store gives them: they can be placed anywhere, and computed again one by one."""

        def spread(parts: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(
                part.gather(1, slots.long()[..., None].expand(-1, -1, part.shape[2]))
                for part, slots in zip(parts, self.slots, strict=True)
            )

        return SegmentStates(self.key, self.model, spread(self.keys), spread(self.values))


def pack(states: SegmentStates, budget: float) -> PackedStates:
    """Let the neighbours that are most alike share their mean, until a share `budget` of the tokens is left.

    The runs are KVMerger's (arXiv:2407.08454), but a stored chunk knows no question yet: there are no scores, so
    neighbours are alike by the cosines of keys and values together, weights are equal, and nothing is evicted. The keys
    of states carry no positions, and unpacked tokens stand at their own ones: every token keeps its vote in the
    softmax without a bias, and layers with a window are packed like others. The first 4 tokens stay as they are.
    Raises InputError for a budget outside (0, 1].
    """
    import torch
    from torch.nn.functional import cosine_similarity

    if not 0 < budget <= 1:
        raise InputError(f"the budget of packed states is {budget}, expected above 0, at most 1")
    count = max(count_of(states.tokens, budget), min(SINKS + 1, states.tokens))
    packed: list[tuple[Any, Any, Any]] = []
    for keys, values in zip(states.keys, states.values, strict=True):
        alike = sum(cosine_similarity(part[:, :-1].float(), part[:, 1:].float(), dim=-1) for part in (keys, values))
        alike[:, :SINKS] = -torch.inf
        slots = runs_of(alike, count)[1]

        def means(parts: Any, slots: Any = slots) -> Any:
            into = torch.zeros(len(slots), count, parts.shape[2], device=parts.device)
            index = slots[..., None].expand(parts.shape)
            return into.scatter_reduce_(1, index, parts.float(), "mean", include_self=False).to(parts.dtype)

        packed.append((means(keys), means(values), slots.int()))
    return PackedStates(states.key, states.model, *zip(*packed, strict=True))
