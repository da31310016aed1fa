"""What was asked before, what the store dropped or damaged, and other threads never change a result."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rag.kvcache import CacheBlend, First, KVCacheManager, MemoryStore, SegmentStates, StateKey, Strategy
from rag.kvcache.segments import segment_id, then
from tests.kvcache.families import make_model
from tests.kvcache.prompts import plain_logits, prompt, tokens_of

pytestmark = pytest.mark.torch
Family = Callable[[str], Any]

STRATEGIES: list[Strategy | str] = ["prefix", "naive", First(share=0.2), CacheBlend(0.2), "cachecraft"]
PROMPTS = [
    prompt(*np.random.default_rng(seed).permutation(6)[: 1 + seed % 4].tolist(), instructions=seed % 2, question=seed)
    for seed in range(12)
]


@pytest.fixture(scope="module")
def fresh(torch: ModuleType, family: Family) -> Callable[[Any], list[Any]]:
    """The logits of every prompt, each by a manager that has seen nothing."""

    def all_fresh(strategy: Any) -> list[Any]:
        return [KVCacheManager(family("gemma3"), strategy=strategy).prefill(p).logits for p in PROMPTS]

    return all_fresh


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: getattr(s, "name", s))
def test_order_and_eviction_change_nothing(family: Family, fresh: Callable[[Any], list[Any]], strategy: Any):
    model = family("gemma3")
    expected = fresh(strategy)
    one = KVCacheManager(model, strategy=strategy)
    one.prefill(PROMPTS[0])
    several = 2 * one.store.nbytes  # type: ignore[attr-defined]
    for budget in (0, several, 1 << 30):
        manager = KVCacheManager(model, strategy=strategy, store=MemoryStore(budget))
        for at in np.random.default_rng(budget).permutation(2 * len(PROMPTS)) % len(PROMPTS):
            got = manager.prefill(PROMPTS[at]).logits
            assert float((got - expected[at]).abs().max()) < 1e-4
        assert manager.store.nbytes <= budget  # type: ignore[attr-defined]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: getattr(s, "name", s))
def test_threads_change_nothing(family: Family, fresh: Callable[[Any], list[Any]], strategy: Any):
    expected = fresh(strategy)
    manager = KVCacheManager(family("gemma3"), strategy=strategy, store=MemoryStore(100_000))
    order = np.random.default_rng(3).permutation(4 * len(PROMPTS)) % len(PROMPTS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda at: manager.prefill(PROMPTS[at]).logits, order))
    for at, got in zip(order, found, strict=True):
        assert float((got - expected[at]).abs().max()) < 1e-4


def test_a_generated_text_does_not_reach_the_store(torch: ModuleType, family: Family):
    model = family("llama")
    manager = KVCacheManager(model, strategy="naive")
    first = manager.prefill(prompt(1, 2))
    for layer in first.cache.layers:
        layer.keys.fill_(9.0)
        layer.values.fill_(9.0)
    assert torch.equal(manager.prefill(prompt(1, 2)).logits, first.logits)


def _bit(states: SegmentStates) -> SegmentStates:
    states.values[1].view(-1)[5] += 1e-3
    return states


def _short(states: SegmentStates) -> SegmentStates:
    return SegmentStates(states.key, states.model, tuple(k[:, 1:] for k in states.keys), states.values)


def _half(states: SegmentStates) -> SegmentStates:
    return SegmentStates(
        states.key, states.model, tuple(k.half() for k in states.keys), tuple(v.half() for v in states.values)
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_bit, "damaged"),
        (_short, "shape"),
        (_half, "float16"),
        (lambda s: SegmentStates(s.key, s.model, s.keys[1:], s.values[1:]), "2 layers instead of 3"),
        (lambda s: replace(s, model="another"), "another model"),
        (lambda s: replace(s, key=StateKey("0", "")), "another segment"),
    ],
    ids=["bit", "short", "half", "layers", "model", "key"],
)
def test_what_is_damaged_or_foreign_is_refused(
    family: Family, caplog: pytest.LogCaptureFixture, change: Callable[[SegmentStates], SegmentStates], reason: str
):
    model = family("llama")
    manager = KVCacheManager(model, strategy="naive")
    expected = manager.prefill(prompt(1, 2)).logits
    head, _, chunk = (segment_id(manager.known_as, part.tokens or ()) for part in prompt(1, 2)[:3])
    key = StateKey(chunk, then("", head))

    class Tampered(MemoryStore):
        def get(self, wanted: StateKey) -> SegmentStates | None:
            states = super().get(wanted)
            return change(states) if states and wanted == key and not discarded else states

        def discard(self, dropped: StateKey) -> None:
            discarded.append(dropped)
            super().discard(dropped)

    discarded: list[StateKey] = []
    store = Tampered()
    for states in manager.store._kept.values():  # type: ignore[attr-defined]
        store.put(states)
    tampered = KVCacheManager(model, strategy="naive", store=store)
    with caplog.at_level(logging.WARNING, "rag.kvcache"):
        got = tampered.prefill(prompt(1, 2))
    assert float((got.logits - expected).abs().max()) < 1e-5
    assert discarded == [key]
    assert got.report.segments[2].stored == len(prompt(2)[1].tokens or ())
    assert reason in caplog.text


def test_models_that_share_a_store_do_not_meet(torch: ModuleType, family: Family):
    store = MemoryStore()
    one, other = family("llama"), make_model("llama", seed=1)
    changed = make_model("llama")
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight[3, 4] += 0.01
    scaled = make_model("llama", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})
    managers = [KVCacheManager(model, strategy="prefix", store=store) for model in (one, other, changed, scaled)]
    assert len({manager.known_as for manager in managers}) == 4
    assert KVCacheManager(make_model("llama")).known_as == managers[0].known_as
    for manager in managers:
        got = manager.prefill(prompt(1, 2))
        assert got.report.reused == 0
        assert float((got.logits - plain_logits(manager.model, prompt(1, 2))).abs().max()) < 1e-4
    assert managers[0].prefill(prompt(1, 2)).report.reused == len(tokens_of(prompt(1, 2)[:-1]))
