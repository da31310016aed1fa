"""The memory of a conversation."""

from __future__ import annotations

from pydantic import Field

from rag.operators.base import Operator
from rag.operators.resources import ChatModel
from rag.types import Answer, Message, Query

__all__ = ["Remember"]


class Remember(Operator, name="orchestration.remember"):
    """Append the question and its answer to `memory`, and drop the oldest turns that are too many.

    A turn begins with a message of the user and reaches to the next one; system messages in front stay. The last turn
    is kept whatever its length. Tokens are counted by the pipeline's language model, where it has one, and otherwise
    taken as a third of the characters.
    """

    turns: int = Field(10, ge=1, le=10_000, description="turns that are kept at most")
    tokens: int = Field(2000, ge=1, description="tokens of the turns that are kept at most")

    def run(
        self, query: Query, answer: Answer, memory: list[Message] | None = None, *, llm: ChatModel | None = None
    ) -> list[Message]:
        before = memory or []
        in_front = next((i for i, message in enumerate(before) if message.role != "system"), len(before))
        turns: list[list[Message]] = []
        for message in [*before[in_front:], Message("user", query.text), Message("assistant", answer.text)]:
            if message.role == "user" or not turns:
                turns.append([])
            turns[-1].append(message)
        kept: list[list[Message]] = []
        room = self.tokens
        for turn in reversed(turns[-self.turns :]):
            room -= sum(_tokens(message.content, llm) for message in turn)
            if room < 0 and kept:
                break
            kept.insert(0, turn)
        return [*before[:in_front], *(message for turn in kept for message in turn)]


def _tokens(text: str, llm: ChatModel | None) -> int:
    return llm.count_tokens(text) if llm is not None else len(text) // 3 + 1
