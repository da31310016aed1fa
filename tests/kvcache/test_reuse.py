"""Approximate reuse against one pass over the prompt in which every cached token stands beside its computed twin."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rag.errors import InputError
from rag.kvcache import CacheBlend, First, KVCacheManager, Naive, Share, Strategy
from rag.kvcache.memory import MemoryStore
from rag.kvcache.request import Request
from rag.kvcache.segments import pieces_of
from tests.kvcache.prompts import prompt, tokens_of

pytestmark = pytest.mark.torch
Family = Callable[[str], Any]

NAMES = ["llama", "llama yarn", "mistral window", "qwen2 window", "gemma2", "gemma3", "gpt neox", "gptj", "cohere2"]


def twins(model: Any, bounds: list[int], tokens: list[int], again: set[int]) -> Any:
    """Logits of a prompt of chunks, each cached alone without instructions, whose positions `again` are computed anew.

    The chunks stand in one sequence, each seeing itself only; behind them the computed tokens at the same positions
    as their twins, seeing those of the chunks that have no twin, and each other.
    """
    import torch

    cached = bounds[-1]
    computed = [*sorted(again), *range(cached, len(tokens))]
    at = np.array([*range(cached), *computed])
    chunk = np.searchsorted(bounds, np.arange(cached), side="right")
    masks = {}
    for window in (None, model.config.sliding_window if hasattr(model.config, "sliding_window") else None):
        near = at[None] > at[:, None] - (window or len(tokens))
        seen = (at[None] <= at[:, None]) & near
        seen[:cached, cached:] = False
        seen[:cached, :cached] &= chunk[:, None] == chunk[None]
        seen[cached:, sorted(again)] = False
        masks[window] = torch.where(torch.tensor(seen), 0.0, torch.finfo(torch.float32).min)[None, None]
    window = getattr(model.config, "sliding_window", None)
    mask: Any = masks[window]
    if getattr(model.config, "layer_types", None):
        mask = {"full_attention": masks[None], "sliding_attention": masks[window]}
    with torch.no_grad():
        ids = torch.tensor([[tokens[place] for place in at]])
        return model(input_ids=ids, position_ids=torch.tensor(at)[None], attention_mask=mask, use_cache=False).logits[
            0, -1
        ]


class Chosen:
    """Compute these positions again."""

    name = "chosen"
    reuse = "chunks"

    def __init__(self, positions: set[int]) -> None:
        self.positions = positions

    def recompute(self, draft: Any) -> Any:
        return np.array(sorted(self.positions), np.int64)


@pytest.mark.parametrize("name", NAMES)
def test_computed_tokens_stand_among_cached_ones(family: Family, name: str):
    model = family(name)
    store = MemoryStore()
    segments = prompt(3, 1, 2, instructions=None)
    bounds = np.cumsum([len(part.tokens or ()) for part in segments[:-1]]).tolist()
    scattered = {bounds[0], bounds[0] + 3, bounds[0] + 4, bounds[1] + 9, bounds[2] - 1}
    for again in (set(), scattered):
        for earlier in ((), (1, 2, 3), (2, 3, 1)):  # with what is in the store already, from other places
            manager = KVCacheManager(model, strategy=Chosen(again), store=store)
            if earlier:
                manager.prefill(prompt(*earlier, instructions=None, question=5))
            got = manager.prefill(segments)
            expected = twins(model, bounds, tokens_of(segments), again)
            assert float((got.logits - expected).abs().max()) < 1e-4 * max(1.0, float(expected.abs().max()) / 10)
            assert got.report.recomputed == len(again) + 7


def test_the_deviation_is_that_of_a_full_prefill(torch: ModuleType, family: Family):
    model = family("gemma3")
    manager = KVCacheManager(model, strategy="naive")
    segments = prompt(4, 2, 3)
    pieces = pieces_of(segments, None, manager.known_as)
    with torch.no_grad():
        true = model(input_ids=torch.tensor([tokens_of(segments)]), use_cache=True, past_key_values=_plain_cache())
        adapter = manager.support.adapter
        assert adapter is not None
        for layer in (1, 2):
            request = Request(adapter, manager.store, manager.known_as, pieces)
            request.fetch_chunks()
            request.place()
            got = request.deviation(layer)
            values = true.past_key_values.layers[layer].values[0]
            expected = np.zeros(len(request.tokens))
            for chunk, states in zip(request.chunks, [request.states[at] for at in (1, 2, 3)], strict=True):
                difference = values[:, chunk.start : chunk.stop] - states.values[layer]
                expected[chunk.start : chunk.stop] = difference.double().square().sum((0, 2)).numpy()
            assert got == pytest.approx(expected, rel=1e-3, abs=1e-6)
            assert got[: pieces[1].stop].max() < 1e-6 < got[pieces[2].start : pieces[3].stop].max()
            assert request.checked == pytest.approx((pieces[3].stop - pieces[2].start) * layer / 3)


def _plain_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()


@pytest.mark.parametrize(
    ("strategy", "tokens"),
    [(Naive(), 0), (First(tokens=3), 6), (First(share=0.1), 6), (Share(0.1), 6), (CacheBlend(0.1), 5)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_report_counts(family: Family, strategy: Strategy, tokens: int):
    manager = KVCacheManager(family("llama"), strategy=strategy)
    segments = prompt(4, 2, 3)  # of 6, 23, 21, 22 and 7 tokens; the first chunk is exact
    cold = manager.prefill(segments).report
    assert [row.stored for row in cold.segments] == [6, 23, 21, 22, 0]
    assert cold.work >= 1
    warm = manager.prefill(segments).report
    assert [row.kind for row in warm.segments] == ["instructions", "chunk", "chunk", "chunk", "question"]
    assert [row.tokens for row in warm.segments] == [6, 23, 21, 22, 7]
    assert [row.stored for row in warm.segments] == [0] * 5
    assert warm.recomputed == tokens + 7
    assert warm.reused == 79 - tokens - 7
    checked = 43 / 3 if isinstance(strategy, CacheBlend) else 0
    assert warm.work == pytest.approx((tokens + 7 + checked) / 79)
    assert not warm.exact
    assert "which is exact" in warm.segments[1].why
    assert "cached alone behind the instructions" in warm.segments[2].why
    assert str(warm).count("\n") == 5


def test_warm_chunks_are_not_computed_again(family: Family):
    manager = KVCacheManager(family("llama"), strategy="first")
    segments = prompt(1, 2)
    assert manager.warm(segments[:1], segments[1:3]) == 2
    assert manager.warm(segments[:1], [*segments[1:3], prompt(3)[1]]) == 1
    assert all(row.stored == 0 for row in manager.prefill(segments).report.segments)


@pytest.mark.parametrize("position", [-1, 59])
def test_a_strategy_that_leaves_the_prompt_is_named(family: Family, position: int):
    manager = KVCacheManager(family("llama"), strategy=Chosen({position}))
    with pytest.raises(InputError, match=rf"'chosen' chose position {position} of a prompt of 54 tokens"):
        manager.prefill(prompt(1, 2))
