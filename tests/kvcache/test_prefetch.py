"""A prompt that waits has its states read from disk meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag.kvcache import CacheCraft, DiskStore, KVCacheManager, MemoryStore, Naive, Strategy, TieredStore
from tests.kvcache.prompts import prompt

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("strategy", [Naive(), CacheCraft(0.1)])
def test_what_a_prompt_needs_is_in_memory_when_it_is_read(
    family: Callable[[str], Any], tmp_path: Path, strategy: Strategy
):
    asked = prompt(1, 2, 3)
    first = KVCacheManager(family("llama"), strategy=strategy, store=tiers(tmp_path))
    first.warm(asked[:1], asked[1:-1])
    expected = first.prefill(asked)
    store = tiers(tmp_path)
    manager = KVCacheManager(family("llama"), strategy=strategy, store=store)
    manager.prefetch(asked)
    store.close()  # waits for the reading
    found = manager.prefill(asked)
    assert store.hits[1] == len(asked) - 1, "each was read from disk once"
    assert store.hits[0] >= len(asked) - 1
    assert store.misses == 0
    assert found.report.misses == 0
    assert found.logits.equal(expected.logits)


def test_where_nothing_is_on_disk_nothing_is_fetched(family: Callable[[str], Any], tmp_path: Path):
    empty = tiers(tmp_path)
    for store in (MemoryStore(), empty):
        for strategy in ("full", "prefix", "naive"):
            manager = KVCacheManager(family("llama"), strategy=strategy, store=store)
            manager.prefetch(prompt(1, 2))
            empty.close()
            assert len(manager.prefill(prompt(1, 2)).tokens) > 0


def tiers(folder: Path) -> TieredStore:
    return TieredStore(MemoryStore(), disk=DiskStore(folder))
