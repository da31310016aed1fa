"""Time to the first token on a GPU with a model of the shape of Llama 3 8B and random weights; kvcache.py runs it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import harness
import numpy as np

from rag.kvcache import KVCacheManager, MemoryStore, Segment
from rag.kvcache.strategies import First, Full, Naive

__all__ = ["main"]

LLAMA_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
LENGTHS = (128, 512, 1024)  # tokens of a chunk
ROUNDS = 5


def main(k: int, shares: Sequence[float]) -> None:
    """Write results/kvcache_device: full prefill, plain reuse and a part of each chunk computed again, in turns.

    With random weights a choice of tokens means nothing, so the first ones of each chunk stand for any strategy that
    chooses without running the model.
    """
    import torch

    if not torch.cuda.is_available():
        sys.exit("llama-8b-shaped takes a CUDA device with 40 GB, and torch sees none here")
    manager = KVCacheManager(model(torch, LLAMA_8B, "cuda"), store=MemoryStore(16 << 30))
    device = f"{torch.cuda.get_device_name()}, bfloat16, {harness.versions('torch', 'transformers')}"
    rows, curves = measured(manager, k, shares, LENGTHS, ROUNDS, torch.cuda.synchronize)
    notes = [f"{k} chunks of the same length in other places than when they were cached, all in device memory; medians"]
    notes += [f"of {ROUNDS} rounds in turns, wall time to the first token. Random weights: time alone. {device}."]
    harness.write("kvcache_device", "Cached chunks on a GPU", notes, rows, lambda figure: draw(figure, curves))


def model(torch: Any, shape: dict[str, Any], device: str) -> Any:
    """A Llama of this shape with random weights, in bfloat16 on a GPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(LlamaConfig(**shape)).eval()
    finally:
        torch.set_default_dtype(before)


def measured(
    manager: KVCacheManager,
    k: int,
    shares: Sequence[float],
    lengths: Sequence[int],
    rounds: int,
    wait: Callable[[], None],
) -> tuple[list[harness.Row], dict[str, list[tuple[int, float]]]]:
    """Rows, and by strategy the tokens of a prompt with the seconds to its first token."""
    strategies: dict[str, Any] = {"full": Full(), "naive": Naive()}
    strategies |= {f"{share:.0%} again": First(share=share) for share in shares}
    rows, curves = [], {name: [] for name in strategies}
    draw = np.random.default_rng(0)
    vocabulary = manager.model.config.vocab_size
    _ = manager.known_as
    for length in lengths:

        def segment(kind: Any, tokens: int) -> Segment:
            return Segment(kind, tokens=tuple(draw.integers(1, vocabulary, tokens).tolist()))

        head, chunks = segment("instructions", 32), [segment("chunk", length) for _ in range(k)]
        seconds: dict[str, list[float]] = {name: [] for name in strategies}
        for turn in range(rounds + 1):
            question = segment("question", 32)
            prompt = [head, *np.roll(np.arange(k), turn + 1).tolist(), question]
            prompt = [chunks[part] if isinstance(part, int) else part for part in prompt]
            for name, strategy in strategies.items():
                own = manager.with_strategy(strategy)
                wait()
                start = time.perf_counter()
                int(own.prefill(prompt).logits.argmax())
                wait()
                if turn:  # the first one fills the store
                    seconds[name].append(time.perf_counter() - start)
        tokens = 64 + k * length
        full = statistics.median(seconds["full"])
        for name, taken in seconds.items():
            middle = statistics.median(taken)
            curves[name].append((tokens, middle))
            if name != "full":
                case, peer = f"{k} chunks of {length}, {name}", ("full prefill", "modular-rag")
                rows.append(harness.compare(case, "ttft", "s", middle, peer, full, 1, more=False))
    return rows, curves


def draw(figure: Any, curves: dict[str, list[tuple[int, float]]]) -> None:
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set(xlabel="tokens of the prompt", ylabel="seconds to the first token", yscale="log", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
