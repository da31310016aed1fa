"""Codecs of a layer's keys and values: evict, KVMerger, D2O and EMS under one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from rag.errors import ConfigError, InputError, did_you_mean
from rag.kvcache.attention.observe import Received
from rag.kvcache.compress.groups import Compressed, Groups, count_of, keep_best, merged, nearest, protected, runs_of

__all__ = ["CODECS", "D2O", "EMS", "Codec", "Evict", "KVMerger", "as_codec", "importance"]

_ROUNDING = 1e-6


class Codec(Protocol):
    """A way to keep fewer keys and values; one object for each layer."""

    @property
    def name(self) -> str: ...

    def compress(self, keys: Any, values: Any, scores: Any, budget: float) -> Compressed:
        """Keep a share of the tokens, each head its own, all heads equally many: ceil(budget * n).

        keys, values: float[heads, n, d], keys without positions. scores: float32[heads, n], at least 0, how much each
        token matters (see `importance`). The first 4 and the last quarter of what stays are always kept. A budget of 1
        gives back what was given. Raises InputError for one outside (0, 1].
        """
        ...


def importance(received: Received) -> Any:
    """How much each token matters, float32[heads, n]: its share of all attention plus its share of the recent.

    Accumulated attention favours early tokens, which more queries see, and recent attention what the last ones ask for;
    the sum is EMS's global-local score (arXiv:2412.08521) in its plainest form.
    """
    return sum(part / part.sum(-1, keepdim=True).clamp_min(1e-30) for part in (received.total, received.recent))


class _Base(ABC):
    """What codecs have in common: both ends of the scale of budgets."""

    def compress(self, keys: Any, values: Any, scores: Any, budget: float) -> Compressed:
        import torch

        if not 0 < budget <= 1:
            raise InputError(f"the budget of a compressed cache is {budget}, expected above 0, at most 1")
        tokens = keys.shape[1]
        if (count := count_of(tokens, budget)) == tokens:
            everywhere = torch.arange(tokens, device=keys.device).expand(len(keys), -1)
            return Compressed(keys, values, everywhere, None)
        return self._compress(keys, values, scores, count)

    @abstractmethod
    def _compress(self, keys: Any, values: Any, scores: Any, count: int) -> Compressed: ...


@dataclass
class Evict(_Base):
    """Keep the tokens with the largest scores and drop the others, as H2O (arXiv:2306.14048) and SnapKV do."""

    name: ClassVar[str] = "evict"

    def _compress(self, keys: Any, values: Any, scores: Any, count: int) -> Compressed:
        positions = keep_best(scores, count)

        def kept(parts: Any) -> Any:
            return parts.gather(1, positions[..., None].expand(-1, -1, parts.shape[2]))

        return Compressed(kept(keys), kept(values), positions, None)


@dataclass
class KVMerger(_Base):
    """Merge runs of neighbours whose keys are alike into the one that matters most (arXiv:2407.08454).

    A third of what stays is protected for its scores, as the first and last tokens are. Two neighbours are joined if
    their keys' cosine is among the largest, as many as the budget asks for, which is what a search for the paper's
    threshold leads to. Weights fall with the distance from the pivot as a Gaussian.
    """

    name: ClassVar[str] = "kvmerger"

    def _compress(self, keys: Any, values: Any, scores: Any, count: int) -> Compressed:
        import torch

        tokens = keys.shape[1]
        if count == sum(protected(tokens, count)):  # five or less: there is no room for what is between them
            return Evict()._compress(keys, values, scores, count)
        alone = self._protected(scores, count)
        alike = torch.nn.functional.cosine_similarity(keys[:, :-1].float(), keys[:, 1:].float(), dim=-1)
        alike.masked_fill_(alone[:, :-1] | alone[:, 1:], -torch.inf)
        begins, slots = runs_of(alike, count)
        order = scores.argsort(dim=-1, descending=True, stable=True)
        order = order.gather(1, slots.gather(1, order).argsort(dim=-1, stable=True))  # by run, the pivot first
        starts = begins.int().argsort(dim=-1, descending=True, stable=True)[:, :count]
        positions = order.gather(1, starts)
        pivots = positions.gather(1, slots)[..., None].expand(keys.shape)
        weights = self._weights((keys.float() - keys.float().gather(1, pivots)).square().sum(-1), slots, count)
        return merged(keys, values, Groups(positions, slots), weights, scores)

    @staticmethod
    def _protected(scores: Any, count: int) -> Any:
        import torch

        tokens = scores.shape[1]
        sinks, recent = protected(tokens, count)
        heavy = max(0, min(count // 3, (count - sinks - recent - 1) // 2))  # each may cut a run in two
        alone = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        middle = scores[:, sinks : tokens - recent]
        alone.scatter_(1, sinks + middle.topk(min(heavy, middle.shape[1]), -1).indices, True)
        alone[:, :sinks] = alone[:, tokens - recent :] = True
        return alone

    @staticmethod
    def _weights(squares: Any, slots: Any, count: int) -> Any:
        """exp(-d^2 / 2 sigma^2), sigma from a first round of such weights, distances relative to the run's own."""
        import torch

        def means(numbers: Any) -> Any:
            into = torch.zeros(len(slots), count, device=slots.device)
            return into.scatter_reduce_(1, slots, numbers, "mean", include_self=False).gather(1, slots)

        relative = squares / means(squares).clamp_min(1e-12)
        sigma = means((-relative / 2).exp()) / 2**0.5
        return (-relative / (2 * sigma.square())).exp()


@dataclass
class D2O(_Base):
    """Drop what received little attention, but merge it into a kept token that it resembles (arXiv:2406.13035).

    `tau` float32[heads]: how alike they must be, a moving average over calls (equation 10), beta the weight of the new
    largest similarity. Weights are exp(similarity), 1 that of a kept token with itself (equation 11), times the scores
    unless `by_score` is False.
    """

    beta: float = 0.7
    by_score: bool = True
    tau: Any = field(default=None, init=False)
    name: ClassVar[str] = "d2o"

    def _compress(self, keys: Any, values: Any, scores: Any, count: int) -> Compressed:
        import torch

        positions = keep_best(scores, count)
        kept = keys.gather(1, positions[..., None].expand(-1, -1, keys.shape[2]))
        stays = torch.zeros(scores.shape, dtype=torch.bool, device=keys.device).scatter_(1, positions, True)
        leaving = (~stays).nonzero()[:, 1].reshape(len(keys), -1)
        gone = keys.gather(1, leaving[..., None].expand(-1, -1, keys.shape[2]))
        alike, centre = nearest(gone, kept)
        self.remember(alike)
        centre = torch.where(alike >= self.tau[:, None] - _ROUNDING, centre, count)
        slots = torch.empty_like(stays, dtype=torch.long)
        slots.scatter_(1, positions, torch.arange(count, device=keys.device).expand(len(keys), -1))
        slots.scatter_(1, leaving, centre)
        weights = torch.full(scores.shape, 1.0, device=keys.device).scatter_(1, leaving, alike).exp()
        if self.by_score:
            weights = weights * scores.clamp_min(1e-9)
        return merged(keys, values, Groups(positions, slots), weights, scores)

    def remember(self, alike: Any) -> None:
        """Move `tau` on, by the similarity float32[heads, gone] of each dropped token to the nearest kept one."""
        if self.tau is None:
            self.tau = alike.mean(-1)
        else:
            self.tau = self.beta * alike.amax(-1) + (1 - self.beta) * self.tau


@dataclass
class EMS(_Base):
    """Evict, then merge what is next into centres, each head by itself (arXiv:2412.08521).

    As many tokens as are kept come next by score: each joins the centre it resembles most, or the zero class, which is
    dropped, where no cosine reaches `alike`. The rest is dropped. Weights are scores; keys are averaged in direction
    and in length.
    """

    alike: float = 0.7
    name: ClassVar[str] = "ems"

    def _compress(self, keys: Any, values: Any, scores: Any, count: int) -> Compressed:
        import torch

        positions = keep_best(scores, count)
        kept = keys.gather(1, positions[..., None].expand(-1, -1, keys.shape[2]))
        ranked = scores.clone().scatter_(1, positions, -torch.inf)
        next_best = ranked.topk(min(count, keys.shape[1] - count), -1).indices
        candidates = keys.gather(1, next_best[..., None].expand(-1, -1, keys.shape[2]))
        alike, centre = nearest(candidates, kept)
        slots = torch.full(scores.shape, count, device=keys.device)
        slots.scatter_(1, next_best, torch.where(alike >= self.alike, centre, count))
        slots.scatter_(1, positions, torch.arange(count, device=keys.device).expand(len(keys), -1))
        return merged(keys, values, Groups(positions, slots), scores.clamp_min(1e-9), scores, by_direction=True)


CODECS: dict[str, Callable[..., Codec]] = {kind.name: kind for kind in (Evict, KVMerger, D2O, EMS)}


def as_codec(name: str, **settings: Any) -> Codec:
    """A codec by its name with these settings; ConfigError for an unknown name."""
    if name not in CODECS:
        raise ConfigError(f"no codec {name!r} for keys and values", hint=did_you_mean(name, CODECS))
    return CODECS[name](**settings)
