"""The store in memory against a list that does the same."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import InputError, NotFoundError
from rag.kvcache import MemoryStore, SegmentStates
from tests.kvcache.made import SHAPES, key_of, made

pytestmark = pytest.mark.torch


@given(st.lists(st.tuples(st.sampled_from("pgdnu"), st.integers(0, 5), st.integers(1, 4)), max_size=60))
def test_the_least_recently_used_go_first(torch: ModuleType, steps: list[tuple[str, int, int]]):
    budget = 8 * 64
    store = MemoryStore(budget, eviction="lru")
    kept: list[SegmentStates] = []  # used last stands last
    pinned: set[int] = set()
    for action, name, tokens in steps:
        known = next((one for one in kept if one.key == key_of(name)), None)
        if action in "pgd" and known:
            kept.remove(known)
        if action == "p":
            states = made(name, tokens * 2)
            fixed = sum(one.nbytes for one in kept if int(one.key.segment) in pinned)
            dropped = store.insert(states)
            expected = []
            if fixed + states.nbytes > budget:
                expected = [states]
                pinned.discard(name)
            else:
                kept.append(states)
                while sum(one.nbytes for one in kept) > budget:
                    expected.append(next(one for one in kept if int(one.key.segment) not in pinned))
                    kept.remove(expected[-1])
            assert list(dropped) == expected
        elif action == "g":
            assert store.get(key_of(name)) is known
            kept += [known] if known else []
        elif action == "d":
            store.discard(key_of(name))
            pinned.discard(name)
        elif action == "n" and known:
            store.pin(key_of(name))
            pinned.add(name)
        elif action == "u":
            store.unpin(key_of(name))
            pinned.discard(name)
        assert store.nbytes == sum(one.nbytes for one in kept) <= budget
        assert len(store) == len(kept)
    for one in kept:
        assert store.get(one.key) is one


def test_what_is_larger_than_the_budget_is_not_kept(torch: ModuleType):
    store = MemoryStore(320)
    store.put(made(1, 4))
    store.put(made(2, 6))
    assert store.get(key_of(2)) is None
    assert store.get(key_of(1)) is not None
    store.put(made(1, 6))  # the old ones of the same name are not what was put
    assert store.get(key_of(1)) is None
    with pytest.raises(InputError, match="-1 bytes"):
        MemoryStore(-1)
    with pytest.raises(NotFoundError, match="to pin"):
        store.pin(key_of(1))


@pytest.mark.parametrize("eviction", ["benefit", "lru", "lfu"])
def test_threads_keep_within_the_budget(torch: ModuleType, eviction: str):
    store = MemoryStore(1600, eviction=eviction)  # type: ignore[arg-type]

    def work(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(300):
            name = int(draw.integers(12))
            found = store.get(key_of(name))
            assert found is None or found.key == key_of(name)
            store.put(made(name, 1 + name))
            if draw.random() < 0.2:
                store.discard(key_of(name))
            assert store.nbytes <= 1600

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert store.nbytes == sum(64 * (1 + name) for name in range(12) if key_of(name) in store)


def test_states_know_every_changed_bit(torch: ModuleType):
    for changed in range(8):
        states = made(1, 4, extra={"t": np.arange(5.0)})
        assert states.nbytes == 4 * 64 + 40
        assert states.fault(states.key, "m", SHAPES, 4, torch.float32) == ""
        (states.keys if changed < 4 else states.values)[changed % 2].view(torch.int32).view(-1)[changed] ^= 1 << changed
        assert "damaged" in states.fault(states.key, "m", SHAPES, 4, torch.float32)
    states = made(1, 4, extra={"t": np.arange(5.0)})
    states.extra["t"][3] = 7
    assert "damaged" in states.fault(states.key, "m", SHAPES, 4, torch.float32)


def test_the_package_loads_no_torch():
    code = "import rag.kvcache, sys; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
