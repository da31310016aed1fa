"""The question together with a more general one."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from rag.operators.asking import Asking
from rag.operators.replies import first_line
from rag.operators.resources import ChatModel
from rag.types import Query

__all__ = ["StepBack"]


class StepBack(Asking, name="pre_retrieval.step_back"):
    """Write `queries`: the question, and a step-back question about the principle or background behind it.

    When the model replies with nothing, or repeats the question, the question is the only one. Both have its filter.
    (Step-back prompting: Zheng et al. 2023, arXiv:2310.06117.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"

    prompt: str = Field("step_back", description="name of a prompt file, without .md")

    def run(self, query: Query, llm: ChatModel) -> list[Query]:
        text = first_line(self.ask(llm, {"question": query.text}).text)
        if not text or text.casefold() == query.text.strip().casefold():
            return [query]
        return [query, query.with_text(text)]
