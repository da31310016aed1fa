"""What the language models share: the checked request, stop strings, and async twins of blocking models."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from rag.errors import InputError
from rag.models.protocol import Completion
from rag.models.scoring import Prompt
from rag.types import Message

__all__ = ["BlockingModel", "Request", "StopStrings", "as_messages", "mixture_weights"]

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a language model; InputError when it makes no sense."""

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float
    stop: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.messages:
            raise InputError("a language model was called with no messages")
        for message in self.messages:
            if message.role not in _ROLES:
                raise InputError(f"message role {message.role!r} is not known", hint="roles: " + ", ".join(_ROLES))
        if self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens}, expected at least 1")
        if not self.temperature >= 0:
            raise InputError(f"temperature is {self.temperature}, expected 0 or more")
        if not all(self.stop):
            raise InputError("a stop string is empty")

    @classmethod
    def of(cls, messages: Sequence[Message], max_tokens: int, temperature: float, stop: Sequence[str]) -> Request:
        """From the arguments of `ChatModel.chat`; `stop` may be one string."""
        return cls(tuple(messages), max_tokens, temperature, (stop,) if isinstance(stop, str) else tuple(stop))


def as_messages(prompt: Prompt) -> Sequence[Message]:
    """A prompt as messages: plain text is the user's."""
    return [Message("user", prompt)] if isinstance(prompt, str) else prompt


def mixture_weights(prompts: int, weights: Sequence[float]) -> list[float]:
    """Weights of a mixture of so many prompts, divided by their sum; InputError when they make no sense."""
    if not prompts or len(weights) != prompts:
        raise InputError(f"a mixture was asked for with {prompts} prompts and {len(weights)} weights")
    total = math.fsum(weights)
    if not (all(w >= 0 for w in weights) and 0 < total < math.inf):
        raise InputError(f"the weights of a mixture are {list(weights)}, expected numbers from 0 on, not all 0")
    return [w / total for w in weights]


class StopStrings:
    """Cuts a growing text at the first stop string, and holds back an end that may still become one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = stop
        self.sent = 0
        self.found = False

    def feed(self, text: str) -> str:
        """What may be handed out of `text`, the whole text so far, beyond what was handed out before."""
        hits = [at for s in self.stop if (at := text.find(s, self.sent)) >= 0]
        self.found = bool(hits)
        end = min(hits) if hits else len(text) - self._undecided(text)
        return self._send(text, end)

    def finish(self, text: str) -> str:
        """What is left of `text` when nothing more will come."""
        return "" if self.found else self._send(text, len(text))

    def _send(self, text: str, end: int) -> str:
        piece = text[self.sent : end]
        self.sent = max(self.sent, end)
        return piece

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        longest = max(map(len, self.stop), default=1) - 1
        return next(
            (n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in self.stop)), 0
        )


class BlockingModel(ABC):
    """The four methods of a ChatModel over one blocking generator; the async ones run it in a worker thread."""

    @abstractmethod
    def _generate(self, request: Request) -> Iterator[str | Completion]:
        """Pieces of text, then the Completion. May be continued from another thread after each piece."""

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> Completion:
        """The whole completion at once."""
        *_, completion = self._generate(Request.of(messages, max_tokens, temperature, stop))
        assert isinstance(completion, Completion)
        return completion

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> Iterator[str | Completion]:
        """Pieces of text as they come, then the Completion."""
        return self._generate(Request.of(messages, max_tokens, temperature, stop))

    async def achat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> Completion:
        """`chat` in a worker thread."""
        return await asyncio.to_thread(self.chat, messages, max_tokens=max_tokens, temperature=temperature, stop=stop)

    async def astream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> AsyncIterator[str | Completion]:
        """`stream` in worker threads, one step at a time."""
        pieces = self.stream(messages, max_tokens=max_tokens, temperature=temperature, stop=stop)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece
