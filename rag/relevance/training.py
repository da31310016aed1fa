"""Training a Cosine Adapter, by torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError, MissingExtraError
from rag.relevance.adapter import Base, CosineAdapter, Encoding, Inputs, mapped
from rag.relevance.lists import CandidateLists
from rag.relevance.logistic import fit_logistic
from rag.relevance.mappings import EPSILON, Mapping, basis, parameter_names
from rag.relevance.measures import pr_auc

__all__ = ["Progress", "train_adapter"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told what is done, and how much of how much."""


@dataclass(frozen=True)
class _Held:
    """What holds the network back: it reads an embedding of some hundred numbers, or a summary of few."""

    dropout: float
    decay: float


_HELD: dict[Inputs, _Held] = {"query": _Held(0.5, 1.0), "scores": _Held(0.1, 0.01), "both": _Held(0.1, 0.01)}
_RATE = 2e-3
_BATCH = 64


def train_adapter(
    lists: CandidateLists,
    validation: CandidateLists,
    *,
    mapping: Mapping = "linear",
    inputs: Inputs = "query",
    base: Base = "cosine",
    invariant: bool = False,
    hidden: int = 256,
    epochs: int = 100,
    patience: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> CosineAdapter:
    """Train an adapter to tell relevant candidates from others: binary cross-entropy over all pairs, AdamW.

    Ends when the loss on the queries of `validation` has not fallen for `patience` epochs, and returns what was best.
    The mapping begins as the best one for all queries together, which is what the network then departs from: with
    `invariant` as a residual on learned defaults over inputs of constant length (see `Encoding`), otherwise by its own
    output alone. Where the trained network ranks the pairs of `validation` worse than that one mapping (by PR AUC), the
    mapping is returned alone, so that an adapter does not lose to the score that it maps. The same seed gives the same
    adapter on the same machine. Raises InputError when labels are all alike, MissingExtraError without torch.
    """
    for part in (lists, validation):
        relevant = part.judged[part.mask]
        if not relevant.any() or relevant.all():
            kind = "relevant" if relevant.any() else "not relevant"
            raise InputError(
                f"all {len(relevant)} candidates of {len(part)} queries are {kind}: there is nothing to tell apart",
                hint="label some candidates of both kinds, in training and validation queries",
            )
    try:
        import torch
    except ImportError:
        raise MissingExtraError("training a relevance adapter", "local") from None
    encoding = Encoding.of(lists, inputs, invariant)
    start, reach = _global_fit(lists, mapping, base)
    held = _HELD[inputs]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        table = torch.from_numpy(encoding(lists))
        first, last = torch.nn.Linear(table.shape[1], hidden), torch.nn.Linear(hidden, len(start))
        if invariant:
            torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
        network = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Dropout(held.dropout), last)
        defaults, scale = torch.from_numpy(start), torch.from_numpy(reach)
        optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=held.decay)
        pairs, held_out = (_Pairs(torch, part, mapping, base) for part in (lists, validation))
        unseen = torch.from_numpy(encoding(validation))
        best, kept, waited = float("inf"), network.state_dict(), 0
        for epoch in range(epochs):
            network.train()
            for rows in torch.split(torch.randperm(len(lists)), _BATCH):
                optimiser.zero_grad()
                pairs.loss(defaults + scale * network(table[rows]), rows).backward()
                optimiser.step()
            network.eval()
            with torch.no_grad():
                loss = float(held_out.loss(defaults + scale * network(unseen)))
            if progress is not None:
                progress("training the adapter", epoch + 1, epochs)
            if loss < best:
                best, waited = loss, 0
                kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            elif (waited := waited + 1) >= patience:
                break
    weights = {name: tensor.numpy() for name, tensor in kept.items()}
    adapter = CosineAdapter(
        mapping,
        base,
        encoding,
        np.ascontiguousarray(weights["0.weight"].T),
        weights["0.bias"],
        np.ascontiguousarray(weights["3.weight"].T * reach),
        weights["3.bias"] * reach + start,
    )
    silent = replace(adapter, output=np.zeros_like(adapter.output), default=start)
    quality = [pr_auc(one(validation).values, validation.judged) for one in (silent, adapter)]
    return adapter if quality[1] >= quality[0] else silent


class _Pairs:
    """Pairs of query and candidate as tensors, and the loss of parameters for them."""

    def __init__(self, torch: Any, lists: CandidateLists, mapping: Mapping, base: Base) -> None:
        self._torch, self._mapping = torch, mapping
        x = mapped(lists, base)
        fixed = x if mapping == "power" else basis(mapping, x)
        self._x = torch.from_numpy(np.ascontiguousarray(fixed))
        self._labels = torch.from_numpy(lists.judged.astype(np.float32))
        self._there = torch.from_numpy(lists.mask.astype(np.float32))

    def loss(self, free: Any, rows: Any = slice(None)) -> Any:
        """Mean binary cross-entropy by unconstrained parameters [rows, p]; the same mapping as `mappings.apply`."""
        torch, x, there = self._torch, self._x[rows], self._there[rows]
        if self._mapping == "power":
            size = x.abs().clamp_min(1e-6)  # the gradient of |x|^k is none at 0
            x = x.sign() * size ** (2 * torch.sigmoid(free[:, 2:3]))
        logits = (torch.nn.functional.softplus(free[:, :1]) + EPSILON) * x + free[:, 1:2]
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, self._labels[rows], reduction="none")
        return (losses * there).sum() / there.sum()


def _global_fit(lists: CandidateLists, mapping: Mapping, base: Base) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The unconstrained parameters float32[p] of one mapping for all queries, and how far a step of 1 moves each."""
    x = mapped(lists, base)[lists.mask]
    fixed = x if mapping == "power" else basis(mapping, x)
    slope, offset = fit_logistic(fixed[:, None], lists.judged[lists.mask])
    slope = max(float(slope), 1e-2)
    free = np.log(np.expm1(slope)) if slope < 20 else slope  # what softplus makes the slope
    start = np.array([free, offset, 0], np.float32)[: len(parameter_names(mapping))]
    return start, np.array([max(slope, 1) / 2, max(slope, 1) / 2, 1], np.float32)[: len(start)]
