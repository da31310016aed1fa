"""Attention that is summed while a model computes it, against the weights that eager attention hands out."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rag.kvcache import KVCacheManager
from rag.kvcache.assembly import Assembly
from tests.kvcache.families import MOVABLE, make_model
from tests.kvcache.prompts import prompt, tokens_of

pytestmark = pytest.mark.torch
Family = Callable[[str], Any]


def weights(torch: ModuleType, name: str, tokens: list[int]) -> list[Any]:
    """Of each layer, [heads, tokens, tokens]; the sinks of gpt-oss are no keys and left out."""
    model = make_model(name, attn_implementation="eager")
    with torch.no_grad():
        found = model(input_ids=torch.tensor([tokens]), output_attentions=True, use_cache=False).attentions
    return [layer[0, :, :, : len(tokens)] for layer in found]


@pytest.mark.parametrize("name", MOVABLE)
def test_sums_are_those_of_eager_attention(torch: ModuleType, family: Family, name: str):
    segments = prompt(1, 2, 3, 4, 5, 6)
    tokens = tokens_of(segments)
    assert len(tokens) > 128  # more than a block of rows
    groups = torch.arange(len(segments)).repeat_interleave(torch.tensor([len(part.tokens or ()) for part in segments]))
    expected = [layer.mean(0) @ torch.nn.functional.one_hot(groups).float() for layer in weights(torch, name, tokens)]
    adapter = KVCacheManager(family(name)).support.adapter
    assert adapter is not None
    from rag.kvcache.attention import AttentionSums

    with torch.no_grad():
        whole = Assembly(adapter, tokens)
        with AttentionSums(groups) as sums:
            logits = whole.run(np.arange(len(tokens)), masked=True)
        assert len(sums.layers) == len(expected) == 3
        for got, layer in zip(sums.layers, expected, strict=True):
            assert float((got - layer).abs().max()) < 1e-5
        assert float((logits - whole.run(np.arange(len(tokens)))).abs().max()) < 1e-4  # and changes nothing
        # Of some tokens, computed among others that are there already.
        some = np.array([3, 40, 41, 90, len(tokens) - 1])
        with AttentionSums(groups) as sums:
            whole.run(some, masked=True)
        for got, layer in zip(sums.layers, expected, strict=True):
            assert float((got - layer[some]).abs().max()) < 1e-5
