"""Hits in the order in which a language model ranks them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from rag.operators.asking import Asking
from rag.operators.resources import ChatModel
from rag.types import Hits, Query

__all__ = ["RerankByModel"]

_BRACKETED = re.compile(r"\[(\d{1,4})\]")
_BARE = re.compile(r"\W*\d{1,4}(?:[\s,;>.]+\d{1,4})*\W*")


class RerankByModel(Asking, name="post_retrieval.rerank_by_model"):
    """Let a language model put the first hits into order: listwise, in windows that slide from the last to the first.

    The model sees `window` numbered passages and answers with a permutation, "[2] > [3] > [1]"; the window then moves
    up by `step`, so that good ones rise to the top. Numbers that are not there, or come again, count for nothing, and
    passages that the reply leaves out keep their order behind those it names; a reply that is no ranking changes
    nothing. Hits behind the first `depth` follow in their order. Scores become 1 / rank. Passages are cut to `words`
    words each, and at the end of the list where a window does not fit the model's. (Sun et al. 2023, arXiv:2304.09542,
    "Is ChatGPT good at search?", section 3.2, permutation generation.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("passages", "question")

    prompt: str = Field("rerank", description="name of a prompt file, without .md")
    k: int = Field(8, ge=1, le=10_000, description="hits to keep")
    depth: int = Field(20, ge=2, le=200, description="hits from the top that are ranked")
    window: int = Field(20, ge=2, le=50, description="passages in one call")
    step: int = Field(10, ge=1, le=50, description="places by which the window moves; less than `window`")
    words: int = Field(200, ge=10, le=5000, description="words of a passage that the model sees")

    @model_validator(mode="after")
    def _overlapping(self) -> RerankByModel:
        if self.step >= self.window:
            raise ValueError(f"`step` is {self.step}, not less than `window`, which is {self.window}")
        return self

    def run(self, query: Query, hits: Hits, llm: ChatModel) -> Hits:
        texts = [" ".join(chunk.text.split()[: self.words]) for chunk in hits.top(self.depth).chunks()]
        order = list(range(len(hits)))
        end = len(texts)
        while end > 1:
            start = max(end - self.window, 0)
            rows = order[start:end]
            passages = "\n\n".join(f"[{n}] {texts[row]}" for n, row in enumerate(rows, 1))
            reply = self.ask(llm, {"passages": passages, "question": query.text}, cut="passages").text
            order[start:end] = [rows[place] for place in _permutation(reply, len(rows))]
            end = end - self.step if start else 0
        return hits.take(np.array(order, np.int64)).with_scores(1 / np.arange(1, len(hits) + 1)).top(self.k)


def _permutation(reply: str, count: int) -> list[int]:
    """Places 0 to count - 1 in the order of a reply, those it does not name behind."""
    numbers = _BRACKETED.findall(reply)
    if not numbers and _BARE.fullmatch(reply.strip()):
        numbers = re.findall(r"\d+", reply)
    named = dict.fromkeys(int(n) - 1 for n in numbers if 1 <= int(n) <= count)
    return [*named, *(place for place in range(count) if place not in named)]
