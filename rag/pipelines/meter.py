"""What language models consumed, counted where it belongs: for a loop's budget and for each node of a trace."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rag.models import ChatModel, Completion
from rag.types import Message, Usage

__all__ = ["Meter", "MeteredModel", "metering"]


class Meter:
    """Counts tokens and calls; what it counts its parent counts too."""

    __slots__ = ("parent", "usage")

    def __init__(self, parent: Meter | None = None) -> None:
        self.usage = Usage()
        self.parent = parent

    def add(self, usage: Usage) -> None:
        with _adding:
            meter: Meter | None = self
            while meter is not None:
                meter.usage += usage
                meter = meter.parent


_adding = threading.Lock()  # branches in threads share the meters around them


_current: ContextVar[Meter | None] = ContextVar("rag_meter", default=None)


@contextmanager
def metering() -> Iterator[Meter]:
    """A meter that counts what happens inside the block, in threads and tasks that it starts too."""
    meter = Meter(_current.get())
    token = _current.set(meter)
    try:
        yield meter
    finally:
        _current.reset(token)


class MeteredModel:
    """A language model whose consumption is counted by the meter around the call."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def chat(self, messages: Sequence[Message], **settings: Any) -> Completion:
        return _counted(self._model.chat(messages, **settings))

    async def achat(self, messages: Sequence[Message], **settings: Any) -> Completion:
        return _counted(await self._model.achat(messages, **settings))

    def stream(self, messages: Sequence[Message], **settings: Any) -> Iterator[str | Completion]:
        for piece in self._model.stream(messages, **settings):
            yield _counted(piece) if isinstance(piece, Completion) else piece

    async def astream(self, messages: Sequence[Message], **settings: Any) -> AsyncIterator[str | Completion]:
        async for piece in self._model.astream(messages, **settings):
            yield _counted(piece) if isinstance(piece, Completion) else piece


def _counted(completion: Completion) -> Completion:
    meter = _current.get()
    if meter is not None:
        usage = completion.usage
        meter.add(usage if usage.calls else Usage(usage.prompt_tokens, usage.completion_tokens, 1))
    return completion
