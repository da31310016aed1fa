"""A plan before the work."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from rag.operators.asking import Asking
from rag.operators.resources import ChatModel
from rag.types import Message, Query

__all__ = ["Plan"]


class Plan(Asking, name="orchestration.plan"):
    """Write `queries`: the steps by which the question can be answered, each to be found out, and the question last.

    The steps are carried out one after another by a loop over `NextQuery` with `Remember`, until `AllAsked`; what the
    `memory` says was found out already is part of the prompt, so that a plan can be made anew in the middle. When no
    step can be read in the reply, the question is the only one. All have its filter. (Plan-and-solve prompting: Wang
    et al. 2023, arXiv:2305.04091; planning again: PlanRAG, Lee et al. 2024, arXiv:2406.12430.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("n", "known", "question")

    prompt: str = Field("plan", description="name of a prompt file, without .md")
    n: int = Field(5, ge=1, le=20, description="steps at most, besides the question")
    with_original: bool = Field(
        True, description="whether the question itself comes last, to be answered from the steps"
    )

    def run(self, query: Query, memory: list[Message] | None = None, *, llm: ChatModel) -> list[Query]:
        known = "\n".join(f"{m.role}: {' '.join(m.content.split())}" for m in memory or [])
        values = {"n": str(self.n), "known": known or "(nothing)", "question": query.text}
        same = query.text.strip().casefold()
        written = [s for s in self.ask_for_items(llm, values, cut="known", keep="tail") if s.casefold() != same]
        steps = [query.with_text(step) for step in written[: self.n]]
        return [*steps, query] if self.with_original or not steps else steps
