"""Attention by search: its parts put together, what is found, and a model that goes on with it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import ConfigError, InputError, ModelError
from rag.kvcache import KVCacheManager
from rag.kvcache.attention import (
    IndexRetriever,
    Logits,
    PageRetriever,
    attend_to,
    attending,
    joined,
    observing,
    search_cache,
)
from tests.kvcache.families import make_model
from tests.kvcache.prompts import prompt

pytestmark = pytest.mark.torch
Family = Callable[[str], Any]
MODELS = ["llama", "llama eager", "gemma2", "gemma3", "gpt oss", "gpt neox", "glm", "smollm3", "qwen2 window", "gpt2"]


def randoms(torch: ModuleType, *shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 49), max_size=4), size=st.sampled_from([0.1, 1.0, 30.0]), seed=st.integers(0, 99))
def test_parts_make_the_whole(torch: ModuleType, cuts: list[int], size: float, seed: int):
    logits, values = size * randoms(torch, 2, 3, 50, seed=seed), randoms(torch, 2, 50, 8, seed=seed + 1)
    edges = sorted({0, 50, *cuts})
    parts = [attend_to(logits[..., start:stop], values[:, start:stop]) for start, stop in itertools.pairwise(edges)]
    expected = (logits.double().softmax(-1) @ values.double()).float()
    assert float((joined(parts) - expected).abs().max()) < 1e-6
    hidden = attend_to(torch.full_like(logits, -torch.inf), values)
    assert torch.equal(joined([*parts, hidden]), joined(parts))  # what is not seen at all weighs nothing


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 200), seed=st.integers(0, 99))
def test_no_key_exceeds_the_bound_of_its_run(torch: ModuleType, count: int, seed: int):
    pages = PageRetriever()
    keys = randoms(torch, count, 8, seed=seed)
    pages.add(keys[: count // 3], keys[: count // 3])
    pages.add(keys[count // 3 :], keys[count // 3 :])
    assert len(pages) == count
    queries = randoms(torch, 3, 8, seed=seed + 1)
    bounds = pages.bounds(queries)
    for at in range(count):
        assert bool((queries @ keys[at] <= bounds[:, at // pages.run] + 1e-5).all())


@pytest.mark.parametrize("kind", ["index", "pages"])
def test_with_room_for_all_keys_it_is_exact(torch: ModuleType, kind: str):
    queries, keys, values = (randoms(torch, n, 16, seed=n) for n in (5, 300, 301))
    values = values[:300]
    retriever = IndexRetriever(queries, k=300) if kind == "index" else PageRetriever(k=320)
    for start in (0, 250):
        retriever.add(keys[start : start + 250], values[start : start + 250])
    logits = Logits(0.5, softcap=2.0)
    part = retriever.attend(queries, logits)
    expected = attend_to(2 * (queries @ keys.T / 4).tanh(), values)
    for got, wanted in zip(part, expected, strict=True):
        assert torch.allclose(got, wanted, atol=1e-5)


def test_an_index_attends_to_the_best_keys(torch: ModuleType):
    keys, values = randoms(torch, 4000, 16), randoms(torch, 4000, 4, seed=1)
    known, queries = randoms(torch, 200, 16, seed=2), randoms(torch, 8, 16, seed=3)
    for k, share in ((50, 1.0), (20, 0.9)):  # scanned, and walked
        retriever = IndexRetriever(known, k=k)
        retriever.add(keys, values)
        part = retriever.attend(queries, Logits(1.0))
        best = (queries @ keys.T).topk(k, -1)
        expected = attend_to(best.values[:, None], values[best.indices])
        assert torch.allclose(part.peak, expected.peak[:, 0], atol=1e-4)
        mass = part.total * (part.peak - expected.peak[:, 0]).exp() / expected.total[:, 0]
        assert float(mass.mean()) > share - 1e-3
        if share == 1.0:
            assert torch.allclose(part.output, expected.output[:, 0], atol=1e-4)


def test_pages_with_the_planted_key_are_found(torch: ModuleType):
    keys, values = 0.3 * randoms(torch, 2000, 16), randoms(torch, 2000, 4, seed=1)
    query = randoms(torch, 1, 16, seed=2)
    for planted in (0, 777, 1999):
        hay = keys.clone()
        hay[planted] = 3 * query[0]
        pages = PageRetriever(k=64)
        pages.add(hay, values)
        part = pages.attend(query, Logits(1.0))
        assert torch.allclose(part.peak, query @ hay[planted])
        assert torch.allclose(part.output[0], values[planted], atol=1e-2)


@pytest.mark.parametrize("method", ["index", "pages"])
@pytest.mark.parametrize("name", MODELS)
def test_the_model_goes_on_as_with_the_whole_cache(torch: ModuleType, family: Family, name: str, method: str):
    model = family(name)
    manager = KVCacheManager(model, strategy="full")
    with observing(model) as observed:
        prefilled = manager.prefill(prompt(1, 2, 3))
    whole = copy.deepcopy(prefilled.cache)
    searched = search_cache(manager, prefilled, observed, method, sinks=4, recent=9, k=10_000)
    with torch.no_grad():
        for tokens in ([[5, 9, 77]], [[3]], [[70]]):
            expected = model(input_ids=torch.tensor(tokens), past_key_values=whole).logits
            with attending(model):
                got = model(input_ids=torch.tensor(tokens), past_key_values=searched.cache).logits
            assert float((got - expected).abs().max()) < 1e-4
    assert searched.cache.get_seq_length() == len(prefilled.tokens) + 5


def test_generation_equals_that_with_the_whole_cache(torch: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """Also while tokens that were generated leave the recent ones and are found by search."""
    monkeypatch.setattr("rag.kvcache.attention.layer._BLOCK", 8)
    model = make_model("gemma3", eos_token_id=None, pad_token_id=1)
    manager = KVCacheManager(model, strategy="full")
    with observing(model) as observed:
        prefilled = manager.prefill(prompt(1, 2, 3))
    start = torch.tensor([[*prefilled.tokens, int(prefilled.logits.argmax())]])
    settings = {"attention_mask": torch.ones_like(start), "max_new_tokens": 40, "do_sample": False}
    expected = model.generate(start, past_key_values=copy.deepcopy(prefilled.cache), **settings)
    for method in ("index", "pages"):
        searched = search_cache(manager, prefilled, observed, method, sinks=4, recent=9, k=10_000)
        with attending(model):
            written = model.generate(start, past_key_values=searched.cache, **settings)
        assert written.tolist() == expected.tolist()
        layer = searched.cache.layers[1]
        assert layer.keys.shape[2] < 4 + 9 + 2 * 8
        assert len(layer.retrievers[0]) + layer.keys.shape[2] == written.shape[1] - 1


def test_each_query_head_finds_its_own_keys(torch: ModuleType, family: Family):
    """With few keys: the softmax over first, recent, and each query head's best keys, of which a KV head has two."""
    model = family("gemma3")
    manager = KVCacheManager(model, strategy="full")
    with observing(model) as observed:
        prefilled = manager.prefill(prompt(1, 2, 3))
    length = len(prefilled.tokens)
    keys, values = prefilled.cache.layers[1].keys[0], prefilled.cache.layers[1].values[0]
    searched = search_cache(manager, prefilled, observed, sinks=4, recent=9, k=6)
    query = randoms(torch, 1, 4, 1, 16, seed=8)
    got = searched.cache.layers[1].attend(query, 0.3, None, None)
    for head in range(4):
        logits = 0.3 * keys[head // 2] @ query[0, head, 0]
        middle = logits[4 : length - 9].argsort(descending=True)[:6] + 4
        seen = torch.tensor([*range(4), *middle.tolist(), *range(length - 9, length)])
        expected = logits[seen].softmax(0) @ values[head // 2, seen]
        assert torch.allclose(got[0, 0, head], expected, atol=1e-5)


def test_short_prompts_stay_as_they_are(torch: ModuleType, family: Family):
    model = family("gemma3")
    manager = KVCacheManager(model, strategy="full")
    with observing(model) as observed:
        prefilled = manager.prefill(prompt(1))
    searched = search_cache(manager, prefilled, observed)
    assert [type(layer) for layer in searched.cache.layers] == [type(layer) for layer in prefilled.cache.layers]
    model(input_ids=torch.tensor([[3]]), past_key_values=searched.cache)
    assert prefilled.cache.get_seq_length() == len(prefilled.tokens)


def test_what_makes_no_sense_is_refused(torch: ModuleType, family: Family):
    model = family("gemma3")
    manager = KVCacheManager(model, strategy="full")
    with observing(model) as observed:
        prefilled = manager.prefill(prompt(1, 2))
    with pytest.raises(ConfigError, match="did you mean 'pages'"):
        search_cache(manager, prefilled, observed, "page", sinks=1, recent=1)
    for method in ("index", "pages"):
        with pytest.raises(ConfigError, match="k is 0"):
            search_cache(manager, prefilled, observed, method, sinks=1, recent=1, k=0)
    with pytest.raises(InputError, match="-1 first"):
        search_cache(manager, prefilled, observed, sinks=-1)
    searched = search_cache(manager, prefilled, observed, sinks=1, recent=1)
    with pytest.raises(InputError, match=f"holds 2 of {len(prefilled.tokens)} tokens"):
        search_cache(manager, searched, observed, sinks=1, recent=1)
    with pytest.raises(ModelError, match="attending"):
        model(input_ids=torch.tensor([[3]]), past_key_values=searched.cache)
    two = randoms(torch, 2, 2, 1, 16)
    with pytest.raises(InputError, match="2 texts at a time"), attending(model):
        searched.cache.layers[1].update(two, two)
    observed.layers.clear()
    with pytest.raises(InputError, match="layer 1 was not observed"):
        search_cache(manager, prefilled, observed, sinks=1, recent=1)
    mamba = KVCacheManager(family("mamba"), strategy="full")
    with pytest.raises(ModelError, match="cannot be searched"):
        search_cache(mamba, prefilled, observed)


def test_queries_of_several_tokens_see_no_later_ones(torch: ModuleType, family: Family):
    model = family("llama")
    manager = KVCacheManager(model, strategy="full")
    with observing(model) as observed:
        prefilled = manager.prefill(prompt(1, 2))
    tokens = np.random.default_rng(0).integers(1, 128, 6)
    rows = []
    for last in (0, 1):
        searched = search_cache(manager, prefilled, observed, sinks=2, recent=3, k=100)
        changed = [*tokens[:-1].tolist(), int(tokens[-1]) + last]
        with attending(model), torch.no_grad():
            rows.append(model(input_ids=torch.tensor([changed]), past_key_values=searched.cache).logits[0])
    assert torch.equal(rows[0][:-1], rows[1][:-1])
    assert not torch.equal(rows[0][-1], rows[1][-1])


def test_sixteen_bits(torch: ModuleType):
    for dtype in (torch.bfloat16, torch.float16):
        model = make_model("gemma3").to(dtype)
        manager = KVCacheManager(model, strategy="full")
        with observing(model) as observed:
            prefilled = manager.prefill(prompt(1, 2, 3))
        token = torch.tensor([[5]])
        with torch.no_grad():
            expected = model(input_ids=token, past_key_values=copy.deepcopy(prefilled.cache)).logits
        for method in ("index", "pages"):
            searched = search_cache(manager, prefilled, observed, method, sinks=4, recent=9, k=10_000)
            with attending(model), torch.no_grad():
                got = model(input_ids=token, past_key_values=searched.cache).logits
            assert got.dtype == dtype
            assert float((got - expected).abs().max()) < 0.02 * float(expected.abs().max())
