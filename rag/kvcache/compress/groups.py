"""Which tokens stay, which join one that stays, and what becomes of their keys and values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["SINKS", "Compressed", "Groups", "count_of", "keep_best", "merged", "nearest", "protected", "runs_of"]

SINKS = 4
"""First tokens that always stay: much attention goes there whatever they say (StreamingLLM, arXiv:2309.17453)."""
_BLOCK = 1 << 24
"""Cosines that are computed at a time."""
_RECENT = 4
"""One in so many of the tokens that stay are the last ones (D2O, section 4.2)."""


@dataclass(frozen=True, eq=False)
class Compressed:
    """What is left of the keys and values of one layer: m tokens for each head, of n.

    keys, values: float[heads, m, d], keys without positions. positions: int64[heads, m], ascending, those of the tokens
    that the others were merged into. bias: float32[heads, m] to be added to the logits, so that a merged token weighs
    as much as all it stands for; None where none was merged.
    """

    keys: Any
    values: Any
    positions: Any
    bias: Any


@dataclass(frozen=True, eq=False)
class Groups:
    """A partition: `positions` int64[heads, m] of those that stay, ascending, and for each token the place among them.

    slots: int64[heads, n]; a token that is dropped has m.
    """

    positions: Any
    slots: Any


def count_of(tokens: int, budget: float) -> int:
    """Tokens that stay within a budget, a share above 0 to 1: rounded up."""
    return math.ceil(budget * tokens - 1e-9)


def protected(tokens: int, count: int) -> tuple[int, int]:
    """How many of the first and of the last tokens stay in any case, if `count` do."""
    recent = min(tokens, max(1, count // _RECENT))
    return max(0, min(SINKS, count - recent, tokens - recent)), recent


def keep_best(scores: Any, count: int) -> Any:
    """Positions int64[heads, count], ascending: the first and last tokens, else those of the largest score."""
    sinks, recent = protected(scores.shape[1], count)
    ranked = scores.float().clone()
    ranked[:, :sinks] = ranked[:, scores.shape[1] - recent :] = math.inf
    return ranked.topk(count, -1).indices.sort(-1).values


def runs_of(alike: Any, count: int) -> tuple[Any, Any]:
    """Cut tokens into `count` runs of neighbours, joining where `alike` float32[heads, n - 1] is largest.

    `alike` is between a token and the next one, -inf for never. Returns bool[heads, n], where a run begins, and
    int64[heads, n], the run of each token.
    """
    import torch

    joins = alike.topk(alike.shape[1] + 1 - count, -1).indices
    begins = torch.ones(len(alike), alike.shape[1] + 1, dtype=torch.bool, device=alike.device)
    begins.scatter_(1, joins + 1, False)
    return begins, begins.long().cumsum(-1) - 1


def nearest(keys: Any, others: Any) -> tuple[Any, Any]:
    """The largest cosine of each of keys float[heads, a, d] with others [heads, b, d], and whose that is.

    Returns float32[heads, a] and int64[heads, a]; in blocks, so that memory does not grow with a * b.
    """
    import torch
    from torch.nn.functional import normalize

    units, among = normalize(keys.float(), dim=-1), normalize(others.float(), dim=-1).transpose(-1, -2)
    step = max(1, _BLOCK // (len(keys) * others.shape[1]))
    found = [(block @ among).max(-1) for block in units.split(step, 1)]
    return torch.cat([one.values for one in found], 1), torch.cat([one.indices for one in found], 1)


def merged(
    keys: Any, values: Any, groups: Groups, weights: Any, scores: Any, *, by_direction: bool = False
) -> Compressed:
    """Each group's weighted mean of keys and values, in the place of the token that stays.

    weights: float32[heads, n], at least 0, brought to a sum of 1 in each group. scores: attention each token received.
    by_direction: keys are averaged as unit vectors and the mean gets the mean length.

    A key that is the mean of others has the mean of their logits, so its weight in a softmax is the geometric mean of
    theirs. The bias lifts it to their sum, as far as the received attention tells: log(sum of scores) - weighted mean
    of log(score). Of tokens that are alike that is the logarithm of their number.
    """
    import torch

    count = groups.positions.shape[1]
    slots = groups.slots

    def sums(numbers: Any) -> Any:
        wide = numbers.shape[2:]
        into = torch.zeros(len(slots), count + 1, *wide, device=numbers.device)
        index = slots.reshape(*slots.shape, *(1 for _ in wide)).expand(numbers.shape)
        return into.scatter_add_(1, index, numbers)

    total = sums(weights.float())
    shares = (weights / total.gather(1, slots))[..., None]
    parts = keys.float()
    if by_direction:
        lengths = parts.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        mean = sums(shares * parts / lengths)
        parts = mean / mean.norm(dim=-1, keepdim=True).clamp_min(1e-12) * sums(shares * lengths)
    else:
        parts = sums(shares * parts)
    sizes = sums(torch.ones_like(weights))
    mass = scores.float().clamp_min(1e-9)
    bias = sums(mass).log() - sums(shares[..., 0] * mass.log())
    alone = (sizes == 1)[:, :count]
    kept = groups.positions[..., None]

    def settled(mean: Any, given: Any) -> Any:
        """A token that stands for itself alone stays bit for bit."""
        own = given.gather(1, kept.expand(-1, -1, given.shape[2]))
        return torch.where(alone[..., None], own, mean[:, :count].to(given.dtype))

    return Compressed(
        settled(parts, keys),
        settled(sums(shares * values.float()), values),
        groups.positions,
        bias[:, :count].masked_fill(alone, 0.0),
    )
