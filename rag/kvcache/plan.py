"""Cache-Craft's measures: what a chunk owed to the chunks before it, and what of that is lost in a new prompt.

S. Agarwal et al., SIGMOD 2025, arXiv:2502.15734. Plain numbers, without a model. Chunks are known by names;
`old` are those before a chunk when it was computed, `new` those before it now, both in order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Profile",
    "fix_overhead",
    "highest",
    "order_penalty",
    "prefix_overlap",
    "profile_of",
    "seen_before",
]


@dataclass(frozen=True, slots=True)
class Profile:
    """What the tokens of a chunk looked at when it was computed.

    inter: by the name of each chunk before it, in their order, the attention that its tokens paid to it (eq. 3).
    impact: the cache context impact, 0.5 to 1 (eq. 11).
    """

    inter: Mapping[str, float]
    impact: float


def profile_of(
    attention: NDArray[np.float32], before: Mapping[str, Sequence[int]], own: int, sizes: Sequence[int]
) -> tuple[Profile, NDArray[np.float32]]:
    """The profile of a chunk from the attention of its tokens, and of each token, what it paid to chunks before.

    Args:
        attention: float32[tokens, groups], averaged over heads and layers, summed over the keys of each group.
        before: by the name of each chunk before it, its groups: several where it stands there more than once.
        own: the group of the chunk itself.
        sizes: tokens of each group.

    Attention to instructions is left out: the first tokens of a prompt draw much of it, whatever they say.
    """
    tokens = len(attention)
    paid = attention.sum(0, dtype=np.float64)
    inter = {name: float(sum(paid[group] for group in groups)) for name, groups in before.items()}
    every = [group for groups in before.values() for group in groups]
    outer = sum(paid[group] / (tokens * sizes[group]) for group in every)
    inner = paid[own] / tokens**2
    impact = 1 / (1 + math.exp(-outer / inner)) if inner > 0 else 1.0
    return Profile(inter, impact), attention[:, every].sum(1, dtype=np.float32)


def prefix_overlap(inter: Mapping[str, float], new: Sequence[str]) -> float:
    """The share of the attention to earlier chunks that went to chunks which are before it now (beta, eq. 6)."""
    total = sum(inter.values())
    return sum(paid for name, paid in inter.items() if name in set(new)) / total if total > 0 else 0.0


def order_penalty(old: Sequence[str], new: Sequence[str]) -> float:
    """Of the pairs of chunks in both, the share that stand in the other order (gamma, eq. 7); 0 below two chunks."""
    place = {name: at for at, name in reversed(list(enumerate(new)))}
    common = [place[name] for name in dict.fromkeys(old) if name in place]
    pairs = list(combinations(common, 2))
    return sum(one > other for one, other in pairs) / len(pairs) if pairs else 0.0


def seen_before(inter: Mapping[str, float], new: Sequence[str]) -> float:
    """How much of what stands before a chunk now is in its states (beta', eq. 8), 0 to 1; 1 for the same chunks.

    Beyond the paper it is multiplied by the share of the chunks before it now that were there then. Otherwise a chunk
    that had seen one of four would count as having seen all, and one computed alone would have no measure (0 / 0).
    """
    old = list(inter)
    if old == list(new):
        return 1.0
    known = len(set(old) & set(new)) / len(set(new)) if new else 0.0
    return prefix_overlap(inter, new) * (1 - order_penalty(old, new)) * known


def fix_overhead(alpha: float, impact: float, seen: float) -> float:
    """The share of a chunk's tokens to compute again (cache fix overhead, eq. 12), 0 to 1."""
    return min(1.0, alpha * impact * (1 - seen))


def highest(scores: NDArray[np.float32], share: float) -> NDArray[np.int64]:
    """Places of the `ceil(share * n)` highest scores (eq. 14); of equal ones the first."""
    return np.argsort(-scores, kind="stable")[: math.ceil(share * len(scores) - 1e-9)]
