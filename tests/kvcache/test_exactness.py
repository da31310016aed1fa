"""Where a prompt put together from parts must be the prompt itself: for every family, against plain passes."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from rag.kvcache import CacheBlend, First, KVCacheManager, Naive, Prefix, Share, Strategy
from tests.kvcache.families import MOVABLE
from tests.kvcache.prompts import plain_logits, prompt, segment, tokens_of

pytestmark = pytest.mark.torch
Family = Callable[[str], Any]


def assert_same(got: Any, expected: Any, atol: float = 1e-4) -> None:
    assert float((got - expected).abs().max()) <= atol * max(1.0, float(expected.abs().max()) / 10)


@pytest.mark.parametrize("name", MOVABLE)
def test_every_token_computed_again_is_a_full_prefill(family: Family, name: str):
    model = family(name)
    strategies: list[Strategy] = [Share(1.0), First(share=1.0), First(tokens=99), CacheBlend(1.0)]
    for strategy in strategies:
        manager = KVCacheManager(model, strategy=strategy)
        assert manager.support.reuse == "chunks"
        manager.prefill(prompt(1, 2, 3))
        for segments in (prompt(3, 1, 2, question=1), prompt(4, 3, 3, 1, question=2)):
            got = manager.prefill(segments)
            assert_same(got.logits, plain_logits(model, segments))
            assert got.report.exact
            assert got.tokens == tuple(tokens_of(segments))


@pytest.mark.parametrize("name", MOVABLE)
def test_the_same_prefix_is_a_full_prefill(family: Family, name: str):
    model = family(name)
    manager = KVCacheManager(model, strategy=Prefix())
    for segments, reused in [
        (prompt(1, 2, 3), 0),
        (prompt(1, 2, 3, question=1), len(tokens_of(prompt(1, 2, 3)[:-1]))),
        (prompt(1, 2, 4, 3), len(tokens_of(prompt(1, 2)[:-1]))),
        (prompt(2, 1, 3), 6),
        (prompt(1, 2, 4, 3)[:-1], len(tokens_of(prompt(1, 2, 4, 3)[:-1])) - 1),  # the last token is computed
    ]:
        got = manager.prefill(segments)
        assert_same(got.logits, plain_logits(model, segments))
        assert got.report.exact
        assert got.report.reused == reused
        assert got.report.reused + got.report.recomputed == got.report.tokens == len(tokens_of(segments))


@pytest.mark.parametrize("name", MOVABLE)
def test_the_first_chunk_is_exact_without_recomputing(family: Family, name: str):
    model = family(name)
    manager = KVCacheManager(model, strategy=Naive())
    manager.prefill(prompt(7, 5, 6))
    segments = prompt(6, question=1)
    got = manager.prefill(segments)
    assert_same(got.logits, plain_logits(model, segments))
    assert got.report.exact
    assert got.report.recomputed == 7
    # Behind another chunk it is not, and says so.
    segments = prompt(5, 6, question=1)
    got = manager.prefill(segments)
    assert not got.report.exact
    assert float((got.logits - plain_logits(model, segments)).abs().max()) > 1e-3


@pytest.mark.parametrize("name", MOVABLE)
def test_the_cache_is_what_a_full_prefill_leaves(torch: ModuleType, family: Family, name: str):
    model = family(name)
    manager = KVCacheManager(model, strategy=CacheBlend(1.0))
    manager.prefill(prompt(1, 2, 3))
    segments = prompt(2, 3, 1)
    got = manager.prefill(segments)
    ids = torch.tensor([tokens_of(segments)])
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=True).past_key_values
    assert got.cache.get_seq_length() == expected.get_seq_length() == ids.shape[1]
    for ours, theirs in zip(got.cache.layers, expected.layers, strict=True):
        assert type(ours) is type(theirs)
        assert_same(ours.keys, theirs.keys)
        assert_same(ours.values, theirs.values)


@pytest.mark.parametrize("name", MOVABLE)
def test_generation_goes_on(torch: ModuleType, family: Family, name: str):
    model = family(name)
    settings = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 0}
    segments = prompt(2, 3, 1)
    ids = torch.tensor([tokens_of(segments)])
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0].tolist()
    for strategy in (Share(1.0), Prefix()):
        manager = KVCacheManager(model, strategy=strategy)
        manager.prefill(prompt(2, 1, 3))
        got = manager.prefill(segments)
        said = torch.tensor([[*got.tokens, int(got.logits.argmax())]])
        settings["max_new_tokens"] = 11
        written = model.generate(said, attention_mask=torch.ones_like(said), past_key_values=got.cache, **settings)
        assert written[0].tolist() == expected


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_instructions_between_chunks_are_computed(family: Family, name: str):
    """As the numbers of passages are: whether the chunk before is exact or not, and whatever the strategy looks at."""
    model = family(name)
    numbers = [segment("instructions", seed) for seed in (7, 8, 9)]
    head, *chunks, question = prompt(1, 2, 3)
    segments = [head, *(part for pair in zip(numbers, chunks, strict=True) for part in pair), question]
    for strategy in (CacheBlend(1.0), First(share=1.0)):
        manager = KVCacheManager(model, strategy=strategy)
        for turn in range(2):
            got = manager.prefill(segments)
            assert_same(got.logits, plain_logits(model, segments))
            assert [row.reused for row in got.report.segments if row.kind == "chunk"][1:] == [0, 0], turn
    partly = KVCacheManager(model, strategy=CacheBlend(0.2)).prefill(segments).report
    assert all(row.recomputed == row.tokens for row in partly.segments[3::2])
