"""The examples of the guide run, on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "kvcache.md"


@pytest.mark.torch
def test_the_examples_of_the_guide_run(family: Callable[[str], Any], tokenizer: Any):
    names: dict[str, Any] = {"model": family("gemma3 words"), "tokenizer": tokenizer}
    for block in MarkdownIt().parse(GUIDE.read_text(encoding="utf-8")):
        if block.type == "fence" and block.info == "py":
            exec(compile(block.content, str(GUIDE), "exec", dont_inherit=True), names)
    prefilled = names["prefilled"]
    assert prefilled.report.reused > 20
    assert names["written"].shape[1] == len(prefilled.tokens) + 21
    assert names["ends"].prefill([*names["instructions"], *names["chunks"]]).report.recomputed == 1
