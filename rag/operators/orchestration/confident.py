"""A judge by token probabilities."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from rag.models.protocol import Completion
from rag.operators.asking import Asking
from rag.operators.indexing.sentences import sentences
from rag.operators.resources import ChatModel
from rag.types import Answer, Context, Query

__all__ = ["Confident"]


class Confidence(NamedTuple):
    """The verdict, the sentence it is about, and the route "confident" or "unsure"."""

    confident: bool
    draft: Answer
    route: Literal["confident", "unsure"]


class Confident(Asking, name="orchestration.confident"):
    """Let the model draft the next sentence of the answer, and judge whether it is sure of every token of it.

    It is when each token has at least `probability`. The sentence is written to `draft`, with its least probability as
    score, so that what follows can accept it, or search with it (`Rewrite` reads it). An empty draft is not sure; a
    model that gives no probabilities counts as `unclear` says. (FLARE, direct: Jiang et al. 2023, arXiv:2305.06983,
    section 3.2; Modular RAG, arXiv:2407.21059, section 3.6, rule judge.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("context", "question", "answer")

    prompt: str = Field("confident", description="name of a prompt file, without .md")
    max_tokens: int = Field(64, ge=1, le=32768, description="tokens of the sentence")
    probability: float = Field(0.4, ge=0, le=1, description="least probability of a token")
    unclear: bool = Field(False, description="the verdict when the model gives no probabilities")

    def run(
        self, query: Query, context: Context | None = None, answer: Answer | None = None, *, llm: ChatModel
    ) -> Confidence:
        values = {
            "context": str(context) if context else "(none)",
            "question": query.text,
            "answer": answer.text.strip() if answer else "",
        }
        completion = self.ask(llm, values, cut="context")
        end = next((stop for _, stop in sentences(completion.text)), 0)
        text = completion.text[:end].strip()
        least = _least_probability(completion, end)
        if not text:
            sure = False
        elif least is None:
            sure = self.unclear
        else:
            sure = least >= self.probability
        return Confidence(sure, Answer(text, score=least, usage=completion.usage), "confident" if sure else "unsure")


def _least_probability(completion: Completion, end: int) -> float | None:
    """Of the tokens before character `end`; of all where the model does not say what its tokens are."""
    logprobs = completion.logprobs
    if not logprobs:
        return None
    tokens = completion.tokens
    if tokens is not None and len(tokens) == len(logprobs):
        count = length = 0
        while count < len(tokens) and length < end:
            length += len(tokens[count])
            count += 1
        logprobs = logprobs[: max(count, 1)]
    return math.exp(min(logprobs))
