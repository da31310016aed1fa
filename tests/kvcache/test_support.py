"""Models that cannot move keys, or not be put together at all, fall back and say why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from rag.kvcache import CacheBlend, KVCacheManager, assembly
from rag.kvcache import adapter as adapters
from tests.kvcache.families import make_model
from tests.kvcache.prompts import plain_logits, prompt, tokens_of

pytestmark = pytest.mark.torch
Family = Callable[[str], Any]

REASONS = {
    "gpt2": ("prefix", "no rotation explains"),
    "bloom": ("prefix", "does not take positions"),
    "llama dynamic": ("nothing", "RoPE is 'dynamic'"),
    "phi3 longrope": ("nothing", "RoPE is 'longrope'"),
    "mamba": ("nothing", "something else than keys and values"),
    "llama4": ("nothing", "chunked_attention"),
    "deepseek": ("prefix", "do not agree when moved"),
}


@pytest.mark.parametrize("name", REASONS)
@pytest.mark.parametrize("strategy", ["prefix", "cacheblend"])
def test_families_that_fall_back(family: Family, caplog: pytest.LogCaptureFixture, name: str, strategy: str):
    model = family(name)
    reuse, reason = REASONS[name]
    manager = KVCacheManager(model, strategy=strategy)
    with caplog.at_level(logging.WARNING, "rag.kvcache"):
        assert manager.support.reuse == reuse
    assert reason in manager.support.reason
    assert manager.support.reason in caplog.text
    manager.prefill(prompt(1, 2))
    for segments, common in ((prompt(1, 3, question=1), 2), (prompt(3, 1, 2), 1)):
        got = manager.prefill(segments)
        expected = plain_logits(model, segments)
        assert float((got.logits - expected).abs().max()) < 1e-4 * max(1.0, float(expected.abs().max()) / 10)
        assert got.report.exact
        assert got.report.reused == (len(tokens_of(segments[:common])) if reuse == "prefix" else 0)
        if strategy == "cacheblend":
            assert reason in got.report.segments[-2].why
    assert manager.warm(prompt(1)[:1], prompt(1)[1:2]) == 0


def test_keys_that_nothing_explains_are_not_moved(family: Family, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adapters, "frequencies", lambda model: [])
    support = KVCacheManager(family("llama")).support
    assert (support.reuse, "layer 0" in support.reason) == ("prefix", True)


@pytest.mark.parametrize("name", ["llama", "gemma3", "mistral window"])
def test_masks_that_do_not_fit_are_noticed(
    torch: ModuleType, family: Family, monkeypatch: pytest.MonkeyPatch, name: str
):
    good = assembly.additive_mask

    def shifted(queries: Any, keys: int, window: int | None, dtype: Any) -> Any:
        return good(queries, keys, None if window else window, dtype) if "window" in name else torch.zeros(1, 1, 1, 1)

    monkeypatch.setattr(assembly, "additive_mask", shifted)
    support = KVCacheManager(family(name), strategy=CacheBlend()).support
    assert support.reuse == "prefix"
    assert "other logits" in support.reason or "no masks" in support.reason


def test_half_precision_is_supported(torch: ModuleType):
    for dtype in (torch.bfloat16, torch.float16):
        model = make_model("llama").to(dtype)
        manager = KVCacheManager(model, strategy=CacheBlend(1.0))
        assert manager.support.reuse == "chunks"
        manager.prefill(prompt(1, 2))
        got = manager.prefill(prompt(2, 1))
        assert got.logits.dtype == torch.float32
        expected = plain_logits(model, prompt(2, 1)).float()
        assert float((got.logits - expected).abs().max()) < 0.1 * float(expected.abs().max())


def test_full_prefill_asks_for_no_test(family: Family):
    manager = KVCacheManager(family("gemma3"), strategy="full")
    for segments in (prompt(1, 2), prompt(2, 1)):
        got = manager.prefill(segments)
        assert float((got.logits - plain_logits(manager.model, segments)).abs().max()) < 1e-4
        assert got.report.work == 1
        assert got.report.exact
    assert "support" not in vars(manager)
