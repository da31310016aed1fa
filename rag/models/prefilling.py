"""Language models that go on from a prompt which somebody else has read for them, such as a cache of chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from rag.models.protocol import ChatModel, Completion, PrefillReport
from rag.types import Message

__all__ = ["Prefill", "PrefilledPrompt", "PrefillingModel", "Turn", "can_prefill"]

Turn: TypeAlias = "tuple[str, Sequence[str]]"
"""The role of a message, and the parts that make up its content."""


class PrefilledPrompt(Protocol):
    """A prompt that was read: the model's own cache, the logits behind its last token, and how that came about."""

    @property
    def cache(self) -> Any: ...

    @property
    def logits(self) -> Any: ...

    @property
    def report(self) -> PrefillReport: ...


@dataclass(frozen=True, slots=True)
class Prefill:
    """A prompt as tokens, and what reads it when the first new token is asked for."""

    tokens: tuple[int, ...]
    run: Callable[[], PrefilledPrompt]


class PrefillingModel(ChatModel, Protocol):
    """A chat model run in this process whose prompts somebody else can read. Safe to call from several threads."""

    @property
    def network(self) -> Any:
        """The causal transformers model."""
        ...

    def tokenizer(self, *texts: Any, **settings: Any) -> Any:
        """What its tokenizer returns when it is called so; for one thread at a time."""
        ...

    @property
    def template(self) -> str:
        """How messages become a prompt, as a text that differs where prompts would; empty for their texts alone."""
        ...

    def prompt_parts(self, turns: Sequence[Turn]) -> list[tuple[int, ...]]:
        """The very tokens of the prompt that `chat` makes of these messages, cut where their parts meet.

        One run of tokens a part. What a template puts around a message belongs to its neighbours, a token that spans a
        border to the part it begins in. Where the borders cannot be told, all tokens belong to the last part.
        """
        ...

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returned when this was first asked for by that name; it lives as long as the model."""
        ...

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        prefill: Prefill | None = None,
    ) -> Iterator[str | Completion]:
        """As `ChatModel.stream`; with `prefill` it goes on from there, and the completion has the report."""
        ...


def can_prefill(model: ChatModel) -> bool:
    """Whether a model is a PrefillingModel; known by its methods, without loading it."""
    return all(callable(getattr(model, name, None)) for name in ("prompt_parts", "kept"))
