"""The question in words that suit a search."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from rag.operators.asking import Asking
from rag.operators.pre_retrieval.history_query import conversation
from rag.operators.replies import first_line
from rag.operators.resources import ChatModel
from rag.types import Answer, Message, Query

__all__ = ["Rewrite"]


class Rewrite(Asking, name="pre_retrieval.rewrite"):
    """Rewrite the question into a query for a search engine.

    In a loop the model also sees the answer of the round before (`draft`, or else `answer`), so that the next query
    can ask for what is still missing; and the conversation, where there is one. The first line of the reply is the new
    query; when it is empty the query stays. The filter is kept. (Rewrite-Retrieve-Read: Ma et al. 2023,
    arXiv:2305.14283; with the last answer: ITER-RETGEN, Shao et al. 2023, arXiv:2305.15294.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("question", "known")

    prompt: str = Field("rewrite", description="name of a prompt file, without .md")

    def run(
        self,
        query: Query,
        draft: Answer | None = None,
        answer: Answer | None = None,
        memory: list[Message] | None = None,
        *,
        llm: ChatModel,
    ) -> Query:
        known = []
        if memory:
            known.append(f"Conversation before:\n{conversation(memory)}")
        earlier = draft or answer
        if earlier is not None and earlier.text.strip():
            known.append(f"Answer so far, which may be wrong or incomplete: {earlier.text.strip()}")
        values = {"question": query.text, "known": "\n\n".join(known)}
        text = first_line(self.ask(llm, values, cut="known", keep="tail").text)
        return query.with_text(text) if text else query
