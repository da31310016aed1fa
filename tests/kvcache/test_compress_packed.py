"""Packed states of stored segments."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import InputError
from rag.kvcache import KVCacheManager, MemoryStore, Naive, SegmentStates, StateKey
from rag.kvcache.compress import PackedStates, pack
from tests.kvcache.prompts import prompt

pytestmark = pytest.mark.torch


def states(torch: ModuleType, tokens: int, seed: int = 0) -> SegmentStates:
    draw = torch.Generator().manual_seed(seed)
    parts = [torch.randn(2, tokens, wide, generator=draw) for wide in (8, 8, 4, 4)]
    return SegmentStates(StateKey("a", "b"), "m", tuple(parts[:2]), tuple(parts[2:]))


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 40), budget=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_runs_share_their_mean(torch: ModuleType, tokens: int, budget: float, seed: int):
    given_ = states(torch, tokens, seed)
    packed = pack(given_, budget)
    count = max(-int(-(budget * tokens - 1e-9) // 1), min(5, tokens))
    back = packed.unpack()
    assert (packed.key, packed.model, packed.tokens) == (back.key, back.model, tokens) == (given_.key, "m", tokens)
    assert back.fault(given_.key, "m", [(2, 8, 4)] * 2, tokens, torch.float32) == ""
    for layer, slots in enumerate(packed.slots):
        assert packed.keys[layer].shape == (2, count, 8)
        assert packed.values[layer].shape == (2, count, 4)
        for head in range(2):
            runs = slots[head].tolist()
            assert runs == sorted(runs)
            assert runs[:5] == list(range(5))[:tokens]
            assert set(runs) == set(range(count))
            for whole, made in ((given_.keys, back.keys), (given_.values, back.values)):
                for run in range(count):
                    members = whole[layer][head][slots[head] == run]
                    mean = members.mean(0).expand(members.shape)
                    assert torch.allclose(made[layer][head][slots[head] == run], mean, atol=1e-6)


def test_equal_neighbours_lose_nothing(torch: ModuleType):
    once = states(torch, 12)
    times = torch.tensor([1] * 5 + [2] * 6 + [1])
    twice = SegmentStates(
        once.key,
        "m",
        tuple(part.repeat_interleave(times, 1) for part in once.keys),
        tuple(part.repeat_interleave(times, 1) for part in once.values),
    )
    packed = pack(twice, 12 / 18)
    back = packed.unpack()
    for whole, made in zip((*twice.keys, *twice.values), (*back.keys, *back.values), strict=True):
        assert torch.allclose(whole, made, atol=1e-6)
    assert packed.nbytes < twice.nbytes
    for budget in (0, 1.5):
        with pytest.raises(InputError, match="packed states"):
            pack(twice, budget)


class PackingStore:
    """A store whose states are packed."""

    def __init__(self, budget: float) -> None:
        self.budget, self.kept = budget, dict[StateKey, PackedStates]()

    def get(self, key: StateKey) -> SegmentStates | None:
        return self.kept[key].unpack() if key in self.kept else None

    def put(self, states: SegmentStates) -> None:
        self.kept[states.key] = pack(states, self.budget)

    def discard(self, key: StateKey) -> None:
        self.kept.pop(key, None)


def test_a_manager_reads_them_like_others(torch: ModuleType, family: Callable[[str], Any]):
    model = family("gemma3")
    segments = prompt(2, 1, 3)
    whole = KVCacheManager(model, strategy=Naive(), store=MemoryStore()).prefill(segments)
    differences = []
    for budget in (1.0, 0.8, 0.3):
        manager = KVCacheManager(model, strategy=Naive(), store=PackingStore(budget))
        manager.prefill(segments)
        got = manager.prefill(segments)
        assert got.report.segments[-1].reused == 0
        assert got.report.reused == sum(part.tokens for part in got.report.segments[:-1])
        differences.append(float((got.logits - whole.logits).abs().max()))
    assert differences[0] < 1e-4 < differences[1] < differences[2]
