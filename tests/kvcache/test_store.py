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

from rag.errors import InputError
from rag.kvcache import MemoryStore, SegmentStates, StateKey

pytestmark = pytest.mark.torch


def states(name: int, tokens: int) -> SegmentStates:
    """Of one layer and one head; 8 bytes a token."""
    import torch

    return SegmentStates(StateKey(str(name), ""), "m", (torch.ones(1, tokens, 1),), (torch.zeros(1, tokens, 1),))


@given(st.lists(st.tuples(st.sampled_from("pgd"), st.integers(0, 5), st.integers(1, 4)), max_size=60))
def test_the_least_recently_used_go_first(torch: ModuleType, steps: list[tuple[str, int, int]]):
    store = MemoryStore(64)
    model: list[SegmentStates] = []  # used last stands last
    for action, name, tokens in steps:
        known = next((kept for kept in model if kept.key.segment == str(name)), None)
        if known:
            model.remove(known)
        if action == "p":
            made = states(name, tokens * 2)
            store.put(made)
            model.append(made)
            while sum(kept.nbytes for kept in model) > 64:
                model.pop(0)
        elif action == "g":
            assert store.get(StateKey(str(name), "")) is known
            model += [known] if known else []
        else:
            store.discard(StateKey(str(name), ""))
        assert store.nbytes == sum(kept.nbytes for kept in model) <= 64
        assert len(store) == len(model)
    for kept in model:
        assert store.get(kept.key) is kept


def test_what_is_larger_than_the_budget_is_not_kept(torch: ModuleType):
    store = MemoryStore(64)
    store.put(states(1, 4))
    store.put(states(2, 9))
    assert store.get(StateKey("2", "")) is None
    assert store.get(StateKey("1", "")) is not None
    store.put(states(1, 9))  # the old ones of the same name are not what was put
    assert store.get(StateKey("1", "")) is None
    with pytest.raises(InputError, match="-1 bytes"):
        MemoryStore(-1)


def test_threads_keep_within_the_budget(torch: ModuleType):
    store = MemoryStore(200)

    def work(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(400):
            name = int(draw.integers(12))
            found = store.get(StateKey(str(name), ""))
            assert found is None or found.key.segment == str(name)
            store.put(states(name, 1 + name))
            if draw.random() < 0.2:
                store.discard(StateKey(str(name), ""))
            assert store.nbytes <= 200

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert store.nbytes == sum(kept.nbytes for kept in store._kept.values())


def test_states_know_every_changed_bit(torch: ModuleType):
    for changed in range(8):
        made = states(1, 4)
        shapes = [(1, 1, 1)]
        assert made.fault(made.key, "m", shapes, 4, torch.float32) == ""
        (made.keys if changed < 4 else made.values)[0].view(torch.int32).view(-1)[changed % 4] ^= 1 << changed
        assert "damaged" in made.fault(made.key, "m", shapes, 4, torch.float32)


def test_the_package_loads_no_torch():
    code = "import rag.kvcache, sys; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
