"""Prompts of random tokens, and what a model says to them without any cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rag.kvcache import Segment
from tests.kvcache.families import VOCABULARY

_LENGTHS = {"instructions": 6, "chunk": 19, "question": 7}


def segment(kind: Any, seed: int) -> Segment:
    """A segment of random tokens; every seed another one, chunks of 19 to 23 tokens."""
    length = _LENGTHS[kind] + (seed % 5 if kind == "chunk" else 0)
    draw = np.random.default_rng([seed, _LENGTHS[kind]])
    return Segment(kind, tokens=tuple(draw.integers(1, VOCABULARY, length).tolist()))


def prompt(*chunks: int, instructions: int | None = 0, question: int = 0) -> list[Segment]:
    """Instructions, chunks and a question by their seeds."""
    head = [] if instructions is None else [segment("instructions", instructions)]
    return [*head, *(segment("chunk", seed) for seed in chunks), segment("question", question)]


def tokens_of(segments: Sequence[Segment]) -> list[int]:
    return [token for part in segments for token in part.tokens or ()]


def plain_logits(model: Any, segments: Sequence[Segment]) -> Any:
    """The logits behind the last token, of one pass over the whole prompt without a cache."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens_of(segments)]), use_cache=False).logits[0, -1]
