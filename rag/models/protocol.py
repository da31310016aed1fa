"""What every language model offers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rag.types import Message, Usage

__all__ = ["ChatModel", "Completion", "PrefillReport"]


class PrefillReport(Protocol):
    """How a prompt was read with a cache; as text, the first line says it all, and the others part by part."""

    @property
    def tokens(self) -> int:
        """Of the whole prompt."""
        ...

    @property
    def reused(self) -> int:
        """Tokens whose keys and values came out of the cache."""
        ...

    @property
    def recomputed(self) -> int:
        """Tokens that the model ran over in this prompt."""
        ...

    @property
    def stored(self) -> int:
        """Tokens that were missing in the cache and were first computed for it."""
        ...

    @property
    def hits(self) -> int:
        """Chunks of the prompt that were in the cache."""
        ...

    @property
    def misses(self) -> int:
        """Chunks that were not."""
        ...

    @property
    def exact(self) -> bool:
        """Whether the logits are those of a full prefill, up to rounding."""
        ...


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote. `logprobs` are natural logarithms, one a generated token, where the model gives them.

    `finish` is "stop" when the model came to an end or a stop string, "length" when `max_tokens` cut it off. `prefill`
    says how the prompt was read where a cache took part in it.
    """

    text: str
    usage: Usage = Usage()
    logprobs: tuple[float, ...] | None = None
    tokens: tuple[str, ...] | None = None
    finish: str = "stop"
    prefill: PrefillReport | None = None


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
