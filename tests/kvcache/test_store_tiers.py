"""Tiers as one store: what goes where, and that they are a dict that may forget."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import InputError, NotFoundError
from rag.kvcache import DiskStore, KVCacheManager, MemoryStore, SegmentStates, StateKey, TieredStore, open_store
from tests.kvcache.made import equal, key_of, made
from tests.kvcache.prompts import prompt

pytestmark = pytest.mark.torch

BUDGETS = (1000, 2000, 6000)
STEPS = st.lists(st.tuples(st.sampled_from("pppgggdnuf"), st.integers(0, 9), st.integers(1, 16)), max_size=50)


def stores(path: Path, *budgets: int) -> TieredStore:
    *memory, disk = budgets
    return TieredStore(*(MemoryStore(budget) for budget in memory), disk=DiskStore(path, disk))


@given(STEPS)
@settings(max_examples=60)
def test_tiers_against_a_dict(torch: ModuleType, tmp_path_factory: pytest.TempPathFactory, steps: list[Any]):
    """Within every budget, only what was put last comes back, bit for bit, and what is pinned is not forgotten."""
    store = stores(tmp_path_factory.mktemp("states"), *BUDGETS)
    put: dict[int, SegmentStates] = {}
    pinned: set[int] = set()
    for number, (action, name, tokens) in enumerate(steps):
        key = key_of(name)
        if action == "p" and name not in pinned:
            put[name] = made(name, tokens, seed=number)
            store.put(put[name])
        elif action == "g":
            found = store.get(key)
            assert found is None or equal(found, put[name])
        elif action == "d":
            store.discard(key)
            put.pop(name, None)
            pinned.discard(name)
            assert store.get(key) is None
        elif action == "n":
            try:
                store.pin(key)
                pinned.add(name)
            except NotFoundError:
                assert key not in store
            except InputError:
                size = put[name].nbytes
                assert sum(put[one].nbytes for one in pinned) + size > BUDGETS[0]
        elif action == "u":
            store.unpin(key)
            pinned.discard(name)
        elif action == "f":
            store.prefetch([key, key_of(name + 1)])
            store.close()  # so that what comes next does not race with it
        assert all(tier.nbytes <= budget for tier, budget in zip(store.tiers, BUDGETS, strict=True))  # type: ignore[attr-defined]
        for one in pinned:
            assert equal(store.memory[0].get(key_of(one)), put[one])
    store.close()


def test_what_falls_out_of_memory_goes_to_the_next_tier_and_comes_back(torch: ModuleType):
    fast, slow = MemoryStore(640, eviction="lru"), MemoryStore(640, eviction="lru")
    store = TieredStore(fast, slow)
    for name in range(4):
        store.put(made(name))  # 320 bytes
    assert [key_of(name) in fast for name in range(4)] == [False, False, True, True]
    assert [key_of(name) in slow for name in range(4)] == [True, True, False, False]
    assert equal(store.get(key_of(0)), made(0))
    assert [key_of(name) in fast for name in range(4)] == [True, False, False, True]
    assert [key_of(name) in slow for name in range(4)] == [False, True, True, False]
    assert store.hits == (0, 1)
    store.put(made(9, 8))  # too large to stay beside another one: both go down, one falls out of all
    assert equal(store.get(key_of(9)), made(9, 8))
    assert store.get(key_of(7)) is None
    assert store.misses == 1


def test_a_process_that_ends_leaves_all_to_the_next(torch: ModuleType, tmp_path: Path):
    store = open_store(tmp_path, memory=700, disk=100_000)
    for name in range(5):
        store.put(made(name))
    later = open_store(tmp_path, memory=700, disk=100_000)
    assert all(equal(later.get(key_of(name)), made(name)) for name in range(5))
    assert later.hits == (0, 5)
    assert equal(later.get(key_of(4)), made(4))
    assert later.hits == (1, 5)


def test_the_disk_is_told_what_is_used_in_memory(torch: ModuleType, tmp_path: Path):
    store = stores(tmp_path, 1000, 10_000)
    assert store.disk is not None
    store.put(made(0))
    for name in range(1, 40):
        for _ in range(4):
            store.get(key_of(0))
        store.close()
        store.put(made(name))
    assert key_of(0) in store.disk
    (entry,) = (entry for entry in store.disk.entries() if entry.key == key_of(0))
    assert entry.uses == 1 + 4 * 39
    assert len(store.disk) < 20


def test_states_larger_than_memory_live_on_disk(torch: ModuleType, tmp_path: Path):
    store = stores(tmp_path, 100, 10_000)
    store.put(made(1))
    assert len(store.memory[0]) == 0
    assert equal(store.get(key_of(1)), made(1))
    with pytest.raises(InputError, match="no room to pin 320 bytes"):
        store.pin(key_of(1))


def test_pinned_states_stay_until_they_are_let_go(torch: ModuleType, tmp_path: Path):
    store = stores(tmp_path, 1000, 50_000)
    store.put(made(0))
    store.put(made(1))
    store.pin(key_of(0))
    for name in range(2, 20):
        store.put(made(name))
    assert key_of(0) in store.memory[0]
    store.pin(key_of(1))  # comes back from the disk for it
    assert key_of(1) in store.memory[0]
    store.pin(key_of(2))
    with pytest.raises(InputError, match="no room to pin"):
        store.pin(key_of(3))
    assert equal(store.get(key_of(3)), made(3))
    store.unpin(key_of(0))
    store.pin(key_of(3))
    assert key_of(0) not in store.memory[0]
    with pytest.raises(NotFoundError):
        store.pin(key_of(99))


class SlowDisk(DiskStore):
    """Counts and delays what is read."""

    def __init__(self, path: Path, go: threading.Event) -> None:
        super().__init__(path)
        self.go = go
        self.reads: list[StateKey] = []

    def get(self, key: StateKey) -> SegmentStates | None:
        self.reads.append(key)
        assert self.go.wait(10)
        return super().get(key)


def test_prefetching_reads_ahead_and_nothing_twice(torch: ModuleType, tmp_path: Path):
    DiskStore(tmp_path).put(made(1))
    DiskStore(tmp_path).put(made(2))
    go = threading.Event()
    disk = SlowDisk(tmp_path, go)
    store = TieredStore(MemoryStore(), disk=disk)
    keys = [key_of(name) for name in (1, 2, 3, 1)]
    store.prefetch(keys)  # does not wait for the disk
    store.prefetch(keys)
    found: list[SegmentStates | None] = []
    asking = threading.Thread(target=lambda: found.append(store.get(key_of(1))))
    asking.start()
    go.set()
    asking.join(10)
    assert equal(found[0], made(1))
    store.close()
    assert disk.reads == keys[:3]
    assert key_of(2) in store.memory[0]
    assert equal(store.get(key_of(2)), made(2))
    assert disk.reads == keys[:3]
    store.prefetch([key_of(1)])  # which is there: nothing to do
    store.close()
    assert disk.reads == keys[:3]


def test_threads_share_tiers(torch: ModuleType, tmp_path: Path):
    store = stores(tmp_path, 1000, 1500, 6000)
    wrong: list[int] = []

    def work(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(150):
            name = int(draw.integers(20))
            if (found := store.get(key_of(name))) is None:
                store.put(made(name, 1 + name % 7))
            elif not equal(found, made(name, 1 + name % 7)):
                wrong.append(name)
            store.prefetch([key_of(int(draw.integers(20)))])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert not wrong
    assert all(tier.nbytes <= budget for tier, budget in zip(store.tiers, (1000, 1500, 6000), strict=True))  # type: ignore[attr-defined]


def test_a_manager_goes_on_where_another_process_ended(torch: ModuleType, family: Callable[[str], Any], tmp_path: Path):
    model = family("gemma3")
    expected = KVCacheManager(model, strategy="naive").prefill(prompt(1, 2, 3))
    for budget in (0, 1 << 30):  # memory of no use, and enough
        first = KVCacheManager(model, strategy="naive", store=open_store(tmp_path / str(budget), memory=budget))
        assert torch.equal(first.prefill(prompt(3, 1, 2)).logits, first.prefill(prompt(3, 1, 2)).logits)
        later = KVCacheManager(model, strategy="naive", store=open_store(tmp_path / str(budget), memory=budget))
        got = later.prefill(prompt(1, 2, 3))
        assert not any(segment.stored for segment in got.report.segments)
        assert float((got.logits - expected.logits).abs().max()) < 1e-5


@pytest.mark.parametrize("codec", ["computed", "int8"])
def test_a_report_calls_nothing_exact_that_was_rounded(
    torch: ModuleType, family: Callable[[str], Any], tmp_path: Path, codec: Any
):
    store = open_store(tmp_path, memory=0, codec=codec)
    manager = KVCacheManager(family("gemma3"), strategy="prefix", store=store)
    expected = manager.prefill(prompt(1, 2))
    again = manager.prefill(prompt(1, 2))
    assert expected.report.exact
    assert again.report.reused > 0
    assert again.report.exact == (codec == "computed")
    assert ("rounded" in str(again.report)) == (codec == "int8")
    assert (float((again.logits - expected.logits).abs().max()) < 1e-4) == (codec == "computed")


def test_a_store_needs_memory():
    with pytest.raises(InputError, match="no tier of memory"):
        TieredStore()
