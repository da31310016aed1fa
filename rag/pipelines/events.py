"""What a streamed run reports, and the record that a traced run keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rag.types import State, Usage

__all__ = ["Event", "Finished", "NodeFinished", "NodeStarted", "Span", "Token"]


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """A node begins."""

    node: str


@dataclass(frozen=True, slots=True)
class Token:
    """A node has written a piece of text."""

    node: str
    text: str


@dataclass(frozen=True, slots=True)
class NodeFinished:
    """A node is done, after so many seconds."""

    node: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The run is done; always the last event of a run that did not fail."""

    state: State


Event: TypeAlias = NodeStarted | Token | NodeFinished | Finished


@dataclass(frozen=True, slots=True)
class Span:
    """One execution of a node: when it began (seconds since the run began), how long it took, for how many items.

    `note` is what a flow decided there: the way it took, what ended a loop, which try failed. `usage` is what language
    models consumed there.
    """

    node: str
    start: float
    seconds: float
    items: int = 1
    note: str = ""
    usage: Usage = Usage()
