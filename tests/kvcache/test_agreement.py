"""Comparisons with full prefill: closed forms at both ends, and the definitions in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rag.kvcache import CacheBlend, Full, KVCacheManager, Naive, Prefix
from rag.kvcache.agreement import begin, compare, divergence
from tests.kvcache.prompts import plain_logits, prompt, tokens_of

pytestmark = pytest.mark.torch

PROMPTS = [prompt(1, 2, 3), prompt(3, 1, question=1), prompt(2, 4, 1, question=2), prompt(4, 3, 2, 1, question=3)]


@pytest.fixture
def manager(family: Callable[[str], Any]) -> KVCacheManager:
    return KVCacheManager(family("gemma3"))


def test_what_is_exact_agrees_in_everything(manager: KVCacheManager):
    full, prefix, all_again = compare(manager, PROMPTS, [Full(), Prefix(), CacheBlend(1.0)])
    for found in (full, prefix, all_again):
        assert (found.prompts, found.agreed, found.equal_texts) == (4, 4, 1.0)
        assert found.kl == pytest.approx(0, abs=1e-6)
    assert full.work == 1.0
    assert all_again.settings == {"share": 1.0, "check_layer": None}


def test_what_is_not_exact_is_measured_as_defined(manager: KVCacheManager):
    (found,) = compare(manager, PROMPTS, [Naive()], tokens=3)
    naive = manager.with_strategy(Naive())
    agreed, kl, texts = [], [], []
    for segments in PROMPTS:
        p, q = plain_logits(manager.model, segments).double(), naive.prefill(segments).logits.double()
        agreed.append(int(p.argmax()) == int(q.argmax()))
        kl.append(float((p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum()))
        one, other = (begin(m, segments, 3) for m in (manager.with_strategy(Full()), naive))
        texts.append(one.said == other.said)
        assert divergence(one, other) == pytest.approx(kl[-1], abs=1e-4)
    assert found.agreed == sum(agreed)
    assert found.kl == pytest.approx(np.mean(kl), abs=1e-4)
    assert found.equal_texts == np.mean(texts)
    assert found.kl > 1e-3
    assert found.work < 0.5  # of prompts whose chunks are in the store, also when they were not at first


def test_the_beginning_of_an_answer_is_greedy(manager: KVCacheManager, torch: Any):
    segments = PROMPTS[0]
    begun = begin(manager, segments, 4)
    said = tokens_of(segments)
    for token in begun.said:
        with torch.no_grad():
            assert token == int(manager.model(torch.tensor([said])).logits[0, -1].argmax())
        said.append(token)
    assert len(begun.said) == 4 or begun.said[-1] == manager.model.generation_config.eos_token_id


def test_progress_is_told(manager: KVCacheManager):
    told: list[tuple[str, int, int]] = []
    compare(manager, PROMPTS[:2], [Prefix()], progress=lambda *what: told.append(what))
    assert [(done, total) for _, done, total in told] == [(0, 2), (1, 2)]


def test_managers_of_several_strategies_share_what_is_known(manager: KVCacheManager):
    _ = manager.known_as
    other = manager.with_strategy("naive")
    assert other.support is manager.support
    assert other.store is manager.store
    assert (manager.strategy.name, other.strategy.name) == ("prefix", "naive")
