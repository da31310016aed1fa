"""A question that can be understood without the conversation before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from rag.operators.asking import Asking
from rag.operators.replies import first_line
from rag.operators.resources import ChatModel
from rag.types import Message, Query

__all__ = ["HistoryQuery", "conversation"]


class HistoryQuery(Asking, name="pre_retrieval.history_query"):
    """Make a follow-up question stand alone: "and in winter?" becomes a question that names what it is about.

    Reads `memory`, the conversation so far; without one the model is not asked and the question stays. It also stays
    when the model replies with nothing. The first line of the reply is the new question; the filter is kept.
    (Conversational query rewriting; Modular RAG, arXiv:2407.21059, section 3.2, query transformation.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("conversation", "question")

    prompt: str = Field("history_query", description="name of a prompt file, without .md")
    turns: int = Field(6, ge=1, le=1000, description="messages of the conversation that are shown, the latest")

    def run(self, query: Query, memory: list[Message] | None = None, *, llm: ChatModel) -> Query:
        if not memory:
            return query
        values = {"conversation": conversation(memory[-self.turns :]), "question": query.text}
        text = first_line(self.ask(llm, values, cut="conversation", keep="tail").text)
        return query.with_text(text) if text else query


def conversation(memory: Sequence[Message]) -> str:
    """Messages as a model reads them in a prompt, one a line."""
    return "\n".join(f"{message.role}: {' '.join(message.content.split())}" for message in memory)
