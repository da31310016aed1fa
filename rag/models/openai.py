"""Language models behind an OpenAI-compatible endpoint (extra `openai`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from rag.endpoint import client_settings, endpoint_errors, estimate_tokens, import_openai, split_spec
from rag.errors import ModelError
from rag.models.generation import Request
from rag.models.protocol import Completion
from rag.types import Message, Usage

__all__ = ["OpenAIChatModel"]

logger = logging.getLogger(__name__)


class OpenAIChatModel:
    """The model `model` of the endpoint at `base_url` (default: OPENAI_BASE_URL, else OpenAI's own).

    The key is read from OPENAI_API_KEY. `timeout` is in seconds, for a request and between two pieces of a stream;
    failed requests are sent again `retries` times with growing pauses (429, 5xx, lost connections). `logprobs` asks for
    log-probabilities, which not every endpoint gives. `context_tokens` is not told by endpoints: set it to the model's.

    Raises ConfigError without a key, ModelError when the endpoint fails or answers nonsense.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        context_tokens: int = 32_768,
        logprobs: bool = False,
        timeout: float = 60.0,
        retries: int = 4,
    ) -> None:
        self.model = model
        self.base_url = base_url
        self.context_tokens = context_tokens
        self.logprobs = logprobs
        self._settings = client_settings(base_url, timeout, retries)
        self._refused: set[str] = set()
        self._client = import_openai().OpenAI(**self._settings)
        self._async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

    @classmethod
    def from_spec(cls, spec: str, **settings: Any) -> OpenAIChatModel:
        """From "MODEL" or "MODEL@BASE_URL"."""
        model, base_url = split_spec(spec)
        return cls(model, base_url, **settings)

    def __repr__(self) -> str:
        return f"OpenAIChatModel({self.name!r})"

    @property
    def name(self) -> str:
        return f"openai:{self.model}" + (f"@{self.base_url}" if self.base_url else "")

    def count_tokens(self, text: str) -> int:
        """An upper estimate: the endpoint's tokenizer is not at hand."""
        return estimate_tokens(text)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> Completion:
        """The whole completion at once."""
        request = Request.of(messages, max_tokens, temperature, stop)
        with endpoint_errors(self.name):
            return self._completion(self._send(request))

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> Iterator[str | Completion]:
        """Pieces of text as they come, then the Completion."""
        return self._stream(Request.of(messages, max_tokens, temperature, stop))

    async def achat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> Completion:
        """`chat` without blocking the event loop."""
        request = Request.of(messages, max_tokens, temperature, stop)
        with endpoint_errors(self.name):
            return self._completion(await self._asend(request))

    async def astream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> AsyncIterator[str | Completion]:
        """`stream` without blocking the event loop."""
        request = Request.of(messages, max_tokens, temperature, stop)
        collected = _Collected()
        with endpoint_errors(self.name):
            async with await self._asend(request, stream=True) as events:
                async for event in events:
                    if piece := collected.add(event):
                        yield piece
            completion = collected.completion(self.name)
        yield completion

    def _stream(self, request: Request) -> Iterator[str | Completion]:
        collected = _Collected()
        with endpoint_errors(self.name):
            with self._send(request, stream=True) as events:
                for event in events:
                    if piece := collected.add(event):
                        yield piece
            completion = collected.completion(self.name)
        yield completion

    async def aclose(self) -> None:
        """Closes the connections of the running event loop; a loop that is closed without it warns of them."""
        if client := self._async_clients.pop(asyncio.get_running_loop(), None):
            await client.close()

    def _send(self, request: Request, *, stream: bool = False) -> Any:
        try:
            return self._client.chat.completions.create(**self._arguments(request, stream))
        except import_openai().BadRequestError as error:
            self._adapt(error)
        return self._send(request, stream=stream)

    async def _asend(self, request: Request, *, stream: bool = False) -> Any:
        loop = asyncio.get_running_loop()
        if loop not in self._async_clients:  # connections belong to the loop that opened them
            self._async_clients[loop] = import_openai().AsyncOpenAI(**self._settings)
        try:
            return await self._async_clients[loop].chat.completions.create(**self._arguments(request, stream))
        except import_openai().BadRequestError as error:
            self._adapt(error)
        return await self._asend(request, stream=stream)

    def _arguments(self, request: Request, stream: bool) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
        }
        if "max_tokens" in self._refused:
            arguments["max_completion_tokens"] = arguments.pop("max_tokens")
        if "temperature" in self._refused:
            del arguments["temperature"]
        if request.stop:
            arguments["stop"] = list(request.stop)
        if self.logprobs:
            arguments["logprobs"] = True
        if stream:
            arguments |= {"stream": True, "stream_options": {"include_usage": True}}
        return arguments

    def _adapt(self, error: Any) -> None:
        """Notes which parameter OpenAI's reasoning models refuse, so that the request can be made without it."""
        if error.param not in ("max_tokens", "temperature") or error.param in self._refused:
            raise error
        self._refused.add(error.param)
        if error.param == "temperature":
            logger.warning("%s takes no temperature: its own default is used", self.name)

    def _completion(self, answer: Any) -> Completion:
        choice = answer.choices[0]
        entries = choice.logprobs.content if choice.logprobs else None
        if choice.message.content is None and choice.finish_reason != "length":
            raise ModelError(f"{self.name}: no text came back (finish reason {choice.finish_reason!r})")
        return _make(_valid(choice.message.content or ""), answer.usage, choice.finish_reason, entries)


class _Collected:
    """What the events of a stream add up to."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.entries: list[Any] = []
        self.finish: str | None = None
        self.usage: Any = None

    def add(self, event: Any) -> str:
        """Takes an event in; the text that it brings."""
        self.usage = event.usage or self.usage
        if not event.choices:
            return ""
        choice = event.choices[0]
        self.finish = choice.finish_reason or self.finish
        if choice.logprobs and choice.logprobs.content:
            self.entries += choice.logprobs.content
        piece = _valid(choice.delta.content or "")
        self.pieces.append(piece)
        return piece

    def completion(self, name: str) -> Completion:
        if self.finish is None:
            raise ModelError(f"{name}: the stream broke off before the answer was complete", hint="try again")
        return _make("".join(self.pieces), self.usage, self.finish, self.entries)


def _valid(text: str) -> str:
    """The text with halves of characters, which JSON can carry and no encoder reads, replaced."""
    return text.encode("utf-8", "replace").decode()


def _make(text: str, usage: Any, finish: str, entries: Any) -> Completion:
    details = getattr(usage, "prompt_tokens_details", None)
    cached = getattr(details, "cached_tokens", None) or 0
    return Completion(
        text,
        Usage(usage.prompt_tokens, usage.completion_tokens, 1, cached) if usage else Usage(calls=1),
        logprobs=tuple(float(entry.logprob) for entry in entries) if entries else None,
        tokens=tuple(str(entry.token) for entry in entries) if entries else None,
        finish="length" if finish == "length" else "stop",
    )
