"""How strategies compare with full prefill on prompts: the first token, its distribution, the answer's beginning."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.kvcache.manager import KVCacheManager
from rag.kvcache.report import Report
from rag.kvcache.segments import Segment
from rag.kvcache.strategies import Full, Strategy
from rag.kvcache.verdict import Finding, settings_of

__all__ = ["Begun", "begin", "compare", "divergence"]

Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Begun:
    """A prompt that was read and an answer that was begun.

    logprobs: of the first token, float32[vocabulary]. said: the greedy tokens, up to the one that ends an answer.
    seconds: to the first token; of CPU time where the model runs on a CPU.
    """

    logprobs: NDArray[np.float32]
    said: tuple[int, ...]
    seconds: float
    report: Report

    @property
    def first(self) -> int:
        return int(self.logprobs.argmax())


def begin(manager: KVCacheManager, segments: Sequence[Segment], tokens: int) -> Begun:
    """Read a prompt and write up to so many tokens greedily."""
    import torch

    clock = time.process_time if manager.model.device.type == "cpu" else time.perf_counter
    start = clock()
    prefilled = manager.prefill(segments)
    token = int(prefilled.logits.argmax())  # waits for the device
    seconds = clock() - start
    logprobs = torch.log_softmax(prefilled.logits.float(), -1).cpu().numpy()
    said = _greedy(manager.model, prefilled.cache, token, tokens)
    return Begun(logprobs, said, seconds, prefilled.report)


def divergence(reference: Begun, other: Begun) -> float:
    """KL(reference || other) of the first token's distributions, in nats."""
    p, q = reference.logprobs.astype(np.float64), other.logprobs.astype(np.float64)
    return float((np.exp(p) * (p - q)).sum())


def compare(
    manager: KVCacheManager,
    prompts: Iterable[Sequence[Segment]],
    strategies: Sequence[Strategy],
    *,
    tokens: int = 8,
    progress: Progress | None = None,
) -> list[Finding]:
    """Findings on each strategy over these prompts, against full prefill of the same tokens.

    Work and time are those with all chunks in the store: what is missing is computed in a run of its own before.
    """
    prompts = list(prompts)
    full = manager.with_strategy(Full())
    others = [manager.with_strategy(strategy) for strategy in strategies]
    rows: list[list[tuple[bool, float, bool, float, float]]] = [[] for _ in others]
    for done, segments in enumerate(prompts):
        if progress is not None:
            progress("prompts compared", done, len(prompts))
        reference = begin(full, segments, tokens)
        for own, found in zip(others, rows, strict=True):
            reused = begin(own, segments, tokens)
            if reused.report.stored:
                reused = begin(own, segments, tokens)
            found.append(
                (
                    reused.first == reference.first,
                    divergence(reference, reused),
                    reused.said == reference.said,
                    reused.report.work,
                    reused.seconds / reference.seconds,
                )
            )
    findings = []
    for strategy, found in zip(strategies, rows, strict=True):
        agreed, kl, equal, work, seconds = (np.array(column, np.float64) for column in zip(*found, strict=True))
        findings.append(
            Finding(
                strategy.name,
                settings_of(strategy),
                len(found),
                int(agreed.sum()),
                float(kl.mean()),
                float(equal.mean()),
                float(work.mean()),
                float(np.median(seconds)),
            )
        )
    return findings


def _greedy(model: Any, cache: Any, token: int, tokens: int) -> tuple[int, ...]:
    """The token and those that follow it greedily, up to one that ends an answer."""
    import torch

    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    said = [token]
    while len(said) < tokens and said[-1] not in ends:
        with torch.no_grad():
            step = torch.tensor([[said[-1]]], device=model.device)
            output = model(step, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        said.append(int(output.logits[0, -1].argmax()))
    return tuple(said)
