"""What a streamed run reports, and the record that an observed run keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rag.models.protocol import PrefillReport
from rag.types import State, Usage

__all__ = ["Event", "Finished", "NodeFinished", "NodeStarted", "Noted", "Span", "Token"]


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """An operator begins."""

    node: str


@dataclass(frozen=True, slots=True)
class Token:
    """An operator has written a piece of text."""

    node: str
    text: str


@dataclass(frozen=True, slots=True)
class Noted:
    """A flow has decided something: the way it takes, what ended a loop, that a try failed."""

    node: str
    text: str


@dataclass(frozen=True, slots=True)
class NodeFinished:
    """An operator is done, after so many seconds, or has failed with `error`.

    `wrote` holds the values that it wrote by channel, one mapping an item; it is empty after a failure. `usage` is what
    language models consumed.
    """

    node: str
    seconds: float
    wrote: Sequence[Mapping[str, Any]] = ()
    error: str = ""
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Finished:
    """The run is done; always the last event of a run that did not fail."""

    state: State


Event: TypeAlias = NodeStarted | Token | Noted | NodeFinished | Finished


@dataclass(frozen=True, slots=True)
class Span:
    """One execution of a node: when it began (seconds since the run began), how long it took, for how many items.

    `kind` is "operator", the form of a flow ("loop", "route", ...), "branch", or "pipeline" for the run as a whole.
    Spans nest: `number` counts them as they begin, `parent` is the number of the one around, `round` the round of the
    loop around. `note` is what a flow decided there, `wrote` what became of each channel in a few words, `remembered`
    how many of the items needed no work, `error` why it failed. `usage` is what language models consumed, with all that
    is inside. `prefills` say how the prompts of its own calls were read, where a cache of keys and values took part.
    """

    node: str
    start: float
    seconds: float
    items: int = 1
    note: str = ""
    usage: Usage = Usage()
    kind: str = "operator"
    number: int = 0
    parent: int | None = None
    round: int = 0
    wrote: Mapping[str, str] = field(default_factory=dict)
    remembered: int = 0
    error: str = ""
    prefills: tuple[PrefillReport, ...] = ()
