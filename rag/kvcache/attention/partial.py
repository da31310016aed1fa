"""Attention over parts of the keys, put together exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Logits", "Partial", "attend_to", "joined"]


@dataclass(frozen=True, slots=True)
class Logits:
    """How inner products of queries and keys become logits: scaled, and bounded by a soft cap (Gemma 2)."""

    scaling: float
    softcap: float | None = None

    def __call__(self, products: Any) -> Any:
        logits = products * self.scaling
        return logits if self.softcap is None else (logits / self.softcap).tanh() * self.softcap


class Partial(NamedTuple):
    """Softmax attention over some keys: `output` [..., d], the largest logit `peak` [...], and `total` [...], the sum
    of exp(logit - peak)."""

    output: Any
    peak: Any
    total: Any


def attend_to(logits: Any, values: Any) -> Partial:
    """Attention by logits float32[..., rows, n], of which -inf is not seen, to values [..., n, d]."""
    peak = logits.amax(-1)
    weights = (logits - peak.clamp_min(-1e30)[..., None]).exp()
    total = weights.sum(-1)
    return Partial((weights @ values.float()) / total.clamp_min(1e-30)[..., None], peak, total)


def joined(parts: Sequence[Partial]) -> Any:
    """The attention over the keys of all parts together, float32[..., d]: a log-sum-exp of the parts, exact."""
    import torch

    peak = torch.stack([part.peak for part in parts]).amax(0)
    masses = [part.total * (part.peak - peak).exp() for part in parts]
    whole = sum(mass[..., None] * part.output for mass, part in zip(masses, parts, strict=True))
    return whole / sum(masses)[..., None]
