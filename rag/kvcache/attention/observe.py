"""Queries seen while a prompt is read, and the attention that each key received from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rag.kvcache.attention.interface import attending, watcher

__all__ = ["Observation", "Observed", "Received", "logits_of", "observing", "received"]

_BLOCK = 1 << 22
"""Logits that are computed at a time."""


@dataclass(frozen=True, eq=False)
class Observation:
    """Queries of one layer, as attention sees them (after RoPE).

    queries: float[heads, rows, d]; positions: int64[rows], ascending; scaling and softcap: how logits are made.
    """

    queries: Any
    positions: Any
    scaling: float
    softcap: float | None

    def last(self, rows: int) -> Observation:
        """Of the last `rows` queries."""
        return Observation(self.queries[:, -rows:], self.positions[-rows:], self.scaling, self.softcap)


@dataclass
class Observed:
    """What was seen: an observation for each layer without a window, of the last forward pass through it.

    rows: how many queries are kept for each layer, the last ones; None for all, which takes about as much memory as
    the keys of all query heads.
    """

    rows: int | None
    layers: dict[int, Observation] = field(default_factory=dict)

    def see(self, layer: int, query: Any, keys: int, mask: Any, scaling: float, softcap: float | None) -> None:
        """Keep the queries of one call, in which the last `q` of `keys` tokens look at them, or those of a mask."""
        import torch

        if mask is None:
            positions = torch.arange(keys - query.shape[2], keys, device=query.device)
        else:  # the last key that a query may see is itself
            seen = mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] >= 0
            positions = keys - 1 - seen.flip(-1).int().argmax(-1)
        kept = slice(None) if self.rows is None else slice(-self.rows, None)
        self.layers[layer] = Observation(query[0, :, kept].clone(), positions[kept], scaling, softcap)


@contextmanager
def observing(model: Any, rows: int | None = None) -> Iterator[Observed]:
    """Record the queries of what the model reads within this block, in this thread.

    Around `manager.prefill` these are the queries of the tokens that were computed for this prompt, the question's
    last: where chunks are reused, their own are not among them.
    Raises ModelError as `attending` does.
    """
    observed = Observed(rows)
    with attending(model):
        token = watcher.set(observed)
        try:
            yield observed
        finally:
            watcher.reset(token)


@dataclass(frozen=True, eq=False)
class Received:
    """Attention that keys received, float32[KV heads, n] each, summed over the query heads of a KV head.

    total: from all observed queries. recent: from the last ones. seen: int64[n], how many queries could see a key.
    """

    total: Any
    recent: Any
    seen: Any


def received(observation: Observation, keys: Any, recent: int = 32) -> Received:
    """The softmax over all keys float[KV heads, n, d] of a prompt, for each query, in blocks of rows.

    The keys are as attention sees them, at positions 0 to n - 1; `recent` is the number of last queries that are also
    summed apart.
    """
    import torch

    heads, length, _ = keys.shape
    places = torch.arange(length, device=keys.device)
    total = torch.zeros(heads, length, device=keys.device)
    late = torch.zeros_like(total)
    rows = len(observation.positions)
    step = max(1, _BLOCK // (length * observation.queries.shape[0]))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        logits = logits_of(observation, keys, slice(start, stop))
        logits.masked_fill_(places > observation.positions[start:stop, None], -torch.inf)
        weights = logits.softmax(-1).sum(1)  # over the query heads of a KV head
        total += weights.sum(1)
        late += weights[:, max(0, rows - recent - start) :].sum(1)
    seen = rows - torch.searchsorted(observation.positions.contiguous(), places)
    return Received(total, late, seen)


def logits_of(observation: Observation, keys: Any, rows: slice) -> Any:
    """Logits float32[KV heads, query heads of each, rows, n] over keys float[KV heads, n, d]."""
    queries = observation.queries[:, rows].float()
    grouped = queries.reshape(len(keys), -1, *queries.shape[1:])
    logits = grouped @ keys.float()[:, None].transpose(-1, -2) * observation.scaling
    if observation.softcap is not None:
        logits = (logits / observation.softcap).tanh() * observation.softcap
    return logits
