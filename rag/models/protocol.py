"""What every language model offers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rag.types import Message, Usage

__all__ = ["ChatModel", "Completion"]


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote. `logprobs` are natural logarithms, one a generated token, where the model gives them.

    `finish` is "stop" when the model came to an end or a stop string, "length" when `max_tokens` cut it off.
    """

    text: str
    usage: Usage = Usage()
    logprobs: tuple[float, ...] | None = None
    tokens: tuple[str, ...] | None = None
    finish: str = "stop"


@runtime_checkable
class ChatModel(Protocol):
    """A language model that continues a conversation. Safe to call from several threads.

    Every method raises ModelError when the model cannot answer. `temperature` 0 is greedy. Streams yield pieces of text
    that joined are the completion's text, and end with the Completion itself.
    """

    @property
    def name(self) -> str:
        """What `rag.models.load` takes to make this model again."""
        ...

    @property
    def context_tokens(self) -> int:
        """Tokens of prompt and answer together that the model can hold."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of a text; exact where the tokenizer is at hand, otherwise a safe upper estimate."""
        ...

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> Completion: ...

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> Iterator[str | Completion]: ...

    async def achat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> Completion: ...

    def astream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> AsyncIterator[str | Completion]: ...
