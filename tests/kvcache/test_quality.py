"""The knob as text, and what a check lets it do."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import ConfigError
from rag.kvcache import Agreement, CacheBlend, First, Naive, Quality, Recompute
from rag.kvcache.quality import as_quality, by_share
from rag.kvcache.verdict import FILE, Finding, Verdict, find_verdict, keep_verdict, settings_of


def finding(prompts: int, agreed: int, work: float = 0.2, share: float = 0.2) -> Finding:
    return Finding("cacheblend", settings_of(CacheBlend(share)), prompts, agreed, 0.01, 0.8, work, 0.3)


@pytest.mark.parametrize("quality", ["exact", Recompute(0.2), Recompute(0.0), Agreement(0.97), Agreement()])
def test_a_quality_is_what_its_text_says(quality: Quality):
    assert as_quality(str(quality)) == quality
    assert as_quality(quality) == quality


@pytest.mark.parametrize("text", ["", "0.2", "recompute", "recompute=", "share=0.2", "agreement=1.5", "recompute=nan"])
def test_what_is_no_quality_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"quality|share"):
        as_quality(text)


def test_a_share_becomes_a_strategy():
    assert by_share(0.3).recompute is not None
    assert settings_of(by_share(0.3))["share"] == 0.3


def test_the_interval_is_wilsons():
    """Its ends are the shares p at which what was seen is 1.645 deviations away."""
    for prompts, agreed in ((100, 97), (20, 10), (7, 0), (50, 50)):
        low, high = finding(prompts, agreed).interval
        for end in (low, high):
            if 1e-9 < end < 1 - 1e-9:
                away = abs(agreed / prompts - end) / math.sqrt(end * (1 - end) / prompts)
                assert away == pytest.approx(1.6449, abs=1e-3)
    assert finding(50, 50).interval[1] == pytest.approx(1.0)
    assert finding(7, 0).interval[0] == pytest.approx(0.0)
    assert finding(0, 0).interval == (0.0, 1.0)


@given(st.integers(1, 500), st.integers(0, 500))
def test_the_agreement_lies_in_its_interval(prompts: int, agreed: int):
    found = finding(prompts, min(agreed, prompts))
    low, high = found.interval
    assert -1e-9 <= low <= found.agreement + 1e-9
    assert found.agreement - 1e-9 <= high <= 1 + 1e-9


def test_the_cheapest_that_is_shown_is_taken():
    cheap, dear, best = finding(100, 90, 0.1, 0.1), finding(100, 99, 0.3, 0.3), finding(100, 100, 0.2, 0.2)
    verdict = Verdict("model", "template", 5, (dear, cheap, best))
    assert verdict.strategy(0.95) == CacheBlend(0.2)
    assert verdict.strategy(0.8) == CacheBlend(0.1)
    assert verdict.strategy(0.99) is None
    assert Verdict("model", "template", 5, ()).strategy(0.0) is None


def test_few_prompts_show_little():
    assert Verdict("m", "t", 5, (finding(10, 10),)).strategy(0.95) is None


def test_a_verdict_is_found_again_for_its_model_and_template(tmp_path: Path):
    one, other = Verdict("m", "t", 5, (finding(9, 8),)), Verdict("m", "u", 3, ())
    again = Verdict("m", "t", 7, (finding(10, 9), Finding("naive", {}, 10, 9, 0.0, 0.0, 0.0, 0.0)))
    assert find_verdict(tmp_path, "m", "t") is None
    for verdict in (one, other, again):
        assert keep_verdict(tmp_path, verdict).parent == tmp_path
    assert find_verdict(tmp_path, "m", "t") == again
    assert find_verdict(tmp_path, "m", "u") == other
    assert find_verdict(tmp_path, "another", "t") is None
    assert len(json.loads((tmp_path / FILE).read_text())["verdicts"]) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"agreed": 90', '"agreed": 99'),
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: "[]",
        lambda text: "\x00" * 64,
    ],
)
def test_a_damaged_file_holds_no_verdict(tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture):
    path = keep_verdict(tmp_path, Verdict("m", "t", 5, (finding(100, 90),)))
    assert callable(damage)
    path.write_text(damage(path.read_text()))
    with caplog.at_level(logging.WARNING, "rag.kvcache"):
        assert find_verdict(tmp_path, "m", "t") is None
    assert str(path) in caplog.text
    keep_verdict(tmp_path, Verdict("m", "t", 5, ()))
    assert find_verdict(tmp_path, "m", "t") == Verdict("m", "t", 5, ())


def test_settings_make_the_strategy_again():
    assert settings_of(Naive()) == {}
    assert First(**settings_of(First(share=0.3))) == First(share=0.3)
