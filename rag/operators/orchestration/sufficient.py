"""Judges that ask a language model a yes-or-no question."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from rag.operators.asking import Asking
from rag.operators.replies import yes_or_no
from rag.operators.resources import ChatModel
from rag.types import Answer, Context, Query

__all__ = ["NeedsRetrieval", "Sufficient"]

_PROMPTS = Path(__file__).parent / "prompts"


class Sufficiency(NamedTuple):
    """Whether it is enough, and the route "sufficient" or "insufficient"."""

    sufficient: bool
    route: Literal["sufficient", "insufficient"]


class Sufficient(Asking, name="orchestration.sufficient"):
    """Judge whether the context, and the answer where there is one, settle the question.

    Without passages and answer, and with an answer that was not found, it is insufficient, and the model is not asked.
    A reply that is neither yes nor no counts as `unclear` says: True, the default, ends a loop rather than spending
    further rounds on a judge that does not work. (Modular RAG, arXiv:2407.21059, section 3.6, scheduling by a model.)
    """

    prompt_folder: ClassVar[Path] = _PROMPTS
    placeholders: ClassVar[tuple[str, ...]] = ("question", "context", "answer")

    prompt: str = Field("sufficient", description="name of a prompt file, without .md")
    max_tokens: int = Field(16, ge=1, le=32768, description="tokens of a reply")
    unclear: bool = Field(True, description="the verdict when the reply is neither yes nor no")

    def run(
        self, query: Query, context: Context | None = None, answer: Answer | None = None, *, llm: ChatModel
    ) -> Sufficiency:
        passages = str(context) if context else ""
        text = answer.text.strip() if answer else ""
        if (answer is not None and not answer.found) or not (passages or text):
            return Sufficiency(False, "insufficient")
        values = {"question": query.text, "context": passages or "(none)", "answer": text or "(none yet)"}
        verdict = yes_or_no(self.ask(llm, values, cut="context").text)
        enough = self.unclear if verdict is None else verdict
        return Sufficiency(enough, "sufficient" if enough else "insufficient")


class Need(NamedTuple):
    """Whether documents are needed, and the route "retrieve" or "answer"."""

    needs_retrieval: bool
    route: Literal["retrieve", "answer"]


class NeedsRetrieval(Asking, name="orchestration.needs_retrieval"):
    """Judge whether documents have to be looked up, or the model can answer by itself.

    A reply that is neither yes nor no means that they are. (Self-RAG, the Retrieve judgement, by prompt: Asai et al.
    2023, arXiv:2310.11511.)
    """

    prompt_folder: ClassVar[Path] = _PROMPTS

    prompt: str = Field("needs_retrieval", description="name of a prompt file, without .md")
    max_tokens: int = Field(16, ge=1, le=32768, description="tokens of a reply")

    def run(self, query: Query, llm: ChatModel) -> Need:
        need = yes_or_no(self.ask(llm, {"question": query.text}).text) is not False
        return Need(need, "retrieve" if need else "answer")
