"""What the operators that put a question to a language model have in common: a prompt file, bounds, batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field

from rag.models.protocol import Completion
from rag.operators.base import Operator
from rag.operators.prompts import Prompt, load_prompt
from rag.operators.replies import items
from rag.operators.resources import ChatModel
from rag.types import Message

__all__ = ["Asking", "at_once", "fitted"]

T = TypeVar("T")

_OVERHEAD = 8  # tokens that a chat template puts around a message


class Asking(Operator, deterministic=False, waits=True):
    """Base of operators that ask a language model with a prompt file.

    A subclass says where its prompts are packaged and which placeholders they must hold. A user's own file of the same
    name in the folder `prompts`, or in the folder RAG_PROMPTS, takes the place of the packaged one. In a batch several
    requests are under way at the same time. Raises ModelError when the model fails, ConfigError or NotFoundError for
    the prompt; a reply that makes no sense is never an error, each operator says what it does then.
    """

    prompt_folder: ClassVar[Path]
    placeholders: ClassVar[tuple[str, ...]] = ("question",)

    prompt: str = Field(description="name of a prompt file, without .md")
    prompts: str | None = Field(
        None, description="folder with prompts of one's own, looked into first, then the folder in RAG_PROMPTS"
    )
    max_tokens: int = Field(256, ge=1, le=32768, description="tokens of a reply")
    temperature: float = Field(0.0, ge=0, le=2, description="0: always the most likely token")
    concurrency: int = Field(8, ge=1, le=256, description="requests of a batch under way at the same time")

    def ask(
        self,
        llm: ChatModel,
        values: Mapping[str, str],
        *,
        cut: str = "question",
        keep: Literal["head", "tail"] = "head",
    ) -> Completion:
        """The model's reply to the prompt with these values for its placeholders.

        Where the prompt does not fit the model's window, the value named by `cut` is shortened, its head or tail kept.
        """
        prompt = load_prompt(
            self.prompt, self.prompts, packaged=self.prompt_folder, placeholders=self.placeholders, optional=()
        )
        messages = fitted(prompt, values, llm, self.max_tokens, cut=cut, keep=keep)
        return llm.chat(messages, max_tokens=self.max_tokens, temperature=self.temperature)

    def ask_for_items(
        self,
        llm: ChatModel,
        values: Mapping[str, str],
        *,
        cut: str = "question",
        keep: Literal["head", "tail"] = "head",
    ) -> list[str]:
        """The lines of the reply as `items`; the last one is left out when the model was cut off within it."""
        completion = self.ask(llm, values, cut=cut, keep=keep)
        found = items(completion.text)
        return found[:-1] if completion.finish == "length" and len(found) > 1 else found

    def run_batch(self, *channels: Any, **resources: Any) -> list[Any]:
        return at_once(partial(self.run, **resources), zip(*channels, strict=True), self.concurrency)


def fitted(
    prompt: Prompt,
    values: Mapping[str, str],
    llm: ChatModel,
    max_tokens: int,
    *,
    cut: str,
    keep: Literal["head", "tail"] = "head",
) -> list[Message]:
    """The messages of a prompt; where they and `max_tokens` do not fit the model's window, value `cut` is shortened."""
    values = dict(values)
    while True:
        filled = prompt.fill(values)
        messages = [Message("system", filled.system)] if filled.system else []
        messages.append(Message("user", filled.user))
        needed = sum(llm.count_tokens(m.content) + _OVERHEAD for m in messages) + max_tokens
        text = values[cut]
        if needed <= llm.context_tokens or not text:
            return messages
        held = max(llm.count_tokens(text), 1)
        share = max(held - (needed - llm.context_tokens), 0) / held
        left = min(int(len(text) * share), len(text) - 1)
        values[cut] = text[:left] if keep == "head" else text[len(text) - left :]


def at_once(function: Callable[..., T], calls: Iterable[tuple[Any, ...]], concurrency: int) -> list[T]:
    """The results of `function` for these arguments, in order, at most `concurrency` at the same time.

    Threads see the caller's context, so that what a call consumes is counted there. The first error is raised, and
    calls that have not begun are dropped.
    """
    calls = list(calls)
    if len(calls) < 2 or concurrency == 1:
        return [function(*call) for call in calls]
    with ThreadPoolExecutor(min(concurrency, len(calls)), "rag-ask") as pool:
        futures = [pool.submit(copy_context().run, function, *call) for call in calls]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
