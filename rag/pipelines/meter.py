"""What language models consumed, counted where it belongs: for a loop's budget and for each node of a trace."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import replace
from typing import Any, TypeVar

from rag.models import ChatModel, Completion, Scored, ScoringModel, can_score
from rag.models.protocol import PrefillReport
from rag.models.scoring import Prompt
from rag.pipelines.spans import record_call
from rag.types import Message, Usage

__all__ = ["Meter", "MeteredModel", "enter", "leave", "metered", "metering"]


_T = TypeVar("_T", Completion, Scored)


class Meter:
    """Counts tokens and calls; what it counts its parent counts too. `prefills` are reports of its own calls alone."""

    __slots__ = ("parent", "prefills", "usage")

    def __init__(self, parent: Meter | None = None) -> None:
        self.usage = Usage()
        self.prefills: list[PrefillReport] = []
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
    meter, entered = enter()
    try:
        yield meter
    finally:
        leave(entered)


def enter() -> tuple[Meter, Token[Meter | None]]:
    """`metering` by hand: the meter, and what `leave` takes to end it, in the same thread or task."""
    meter = Meter(_current.get())
    return meter, _current.set(meter)


def leave(entered: Token[Meter | None]) -> None:
    """End what `enter` began."""
    _current.reset(entered)


class MeteredModel:
    """A language model whose consumption is counted by the meter around the call."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def chat(self, messages: Sequence[Message], **settings: Any) -> Completion:
        return self._counted(self._model.chat(messages, **settings), messages, settings)

    async def achat(self, messages: Sequence[Message], **settings: Any) -> Completion:
        return self._counted(await self._model.achat(messages, **settings), messages, settings)

    def stream(self, messages: Sequence[Message], **settings: Any) -> Iterator[str | Completion]:
        for piece in self._model.stream(messages, **settings):
            yield self._counted(piece, messages, settings) if isinstance(piece, Completion) else piece

    async def astream(self, messages: Sequence[Message], **settings: Any) -> AsyncIterator[str | Completion]:
        async for piece in self._model.astream(messages, **settings):
            yield self._counted(piece, messages, settings) if isinstance(piece, Completion) else piece

    def _counted(self, completion: Completion, messages: Sequence[Message], settings: Mapping[str, Any]) -> Completion:
        _count(completion)
        if (meter := _current.get()) is not None:
            if completion.prefill is not None:
                meter.prefills.append(completion.prefill)
            record_call(self._model.name, messages, settings, completion)
        return completion


class _MeteredScoringModel(MeteredModel):
    """The same for one that scores given text."""

    _model: ScoringModel

    def score(self, prefix: Prompt, text: str) -> Scored:
        return self.score_batch([(prefix, text)])[0]

    def score_batch(self, items: Sequence[tuple[Prompt, str]]) -> list[Scored]:
        return [_count(scored) for scored in self._model.score_batch(items)]

    def stream_mixture(
        self, prompts: Sequence[Prompt], weights: Sequence[float], **settings: Any
    ) -> Iterator[str | Completion]:
        for piece in self._model.stream_mixture(prompts, weights, **settings):
            yield _count(piece) if isinstance(piece, Completion) else piece


def metered(model: ChatModel) -> MeteredModel:
    """The model, counted; it scores given text if the model does."""
    return _MeteredScoringModel(model) if can_score(model) else MeteredModel(model)


def _count(result: _T) -> _T:
    meter = _current.get()
    if meter is not None:
        usage = result.usage
        meter.add(usage if usage.calls else replace(usage, calls=1))
    return result
