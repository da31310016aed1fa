"""A judge by token probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from rag.operators.asking import Asking
from rag.operators.generation.certainty import least_probability
from rag.operators.indexing.sentences import sentences
from rag.operators.resources import ChatModel
from rag.types import Answer, Context, Query, Usage

__all__ = ["Confident"]


class Confidence(NamedTuple):
    """The verdict, what it is about, and the route "confident" or "unsure"."""

    confident: bool
    draft: Answer
    route: Literal["confident", "unsure"]


class Confident(Asking, name="orchestration.confident"):
    """Judge whether the model is sure of every token of what it says: each has at least `probability`.

    Where the answer brings the probabilities of its tokens, as `Generate` writes them, it is judged itself, without a
    call of the model; `draft` is the answer, with its least probability as score. Tokens of citations do not count, and
    an answer that was not found is not sure. Otherwise, and when there is no answer yet, the model drafts the next
    sentence of one, which is judged and written to `draft` in the same way. An empty draft is not sure; a model that
    gives no probabilities counts as `unclear` says.

    What follows can accept the draft, or search with it: `Rewrite` reads it, and `AddAnswer` leaves out the words that
    were not sure. (FLARE, direct: Jiang et al. 2023, arXiv:2305.06983, section 3.2; Modular RAG, arXiv:2407.21059,
    section 3.6, rule judge.)
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
        if answer is not None and not answer.found:
            return Confidence(False, answer, "unsure")
        if answer is not None and answer.logprobs:
            least = least_probability(answer.tokens, answer.logprobs)
            return self._verdict(replace(answer, score=least, usage=Usage()))
        values = {
            "context": str(context) if context else "(none)",
            "question": query.text,
            "answer": answer.text.strip() if answer else "",
        }
        completion = self.ask(llm, values, cut="context")
        end = next((stop for _, stop in sentences(completion.text)), 0)
        least = least_probability(completion.tokens, completion.logprobs, end) if end else None
        return self._verdict(Answer(completion.text[:end].strip(), score=least, usage=completion.usage))

    def _verdict(self, draft: Answer) -> Confidence:
        if not draft.text.strip():
            sure = False
        elif draft.score is None:
            sure = self.unclear
        else:
            sure = draft.score >= self.probability
        return Confidence(sure, draft, "confident" if sure else "unsure")
