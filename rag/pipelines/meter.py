"""What language models consumed, counted where it belongs: for a loop's budget and for each node of a trace."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from rag.models import ChatModel, Completion, Scored, ScoringModel, can_score
from rag.models.scoring import Prompt
from rag.types import Message, Usage

__all__ = ["Meter", "MeteredModel", "metered", "metering"]


_T = TypeVar("_T", Completion, Scored)


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


class _MeteredScoringModel(MeteredModel):
    """The same for one that scores given text."""

    _model: ScoringModel

    def score(self, prefix: Prompt, text: str) -> Scored:
        return self.score_batch([(prefix, text)])[0]

    def score_batch(self, items: Sequence[tuple[Prompt, str]]) -> list[Scored]:
        return [_counted(scored) for scored in self._model.score_batch(items)]

    def stream_mixture(
        self, prompts: Sequence[Prompt], weights: Sequence[float], **settings: Any
    ) -> Iterator[str | Completion]:
        for piece in self._model.stream_mixture(prompts, weights, **settings):
            yield _counted(piece) if isinstance(piece, Completion) else piece


def metered(model: ChatModel) -> MeteredModel:
    """The model, counted; it scores given text if the model does."""
    return _MeteredScoringModel(model) if can_score(model) else MeteredModel(model)


def _counted(result: _T) -> _T:
    meter = _current.get()
    if meter is not None:
        usage = result.usage
        meter.add(usage if usage.calls else Usage(usage.prompt_tokens, usage.completion_tokens, 1))
    return result
