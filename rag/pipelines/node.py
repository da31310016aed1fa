"""What a plan is made of: nodes that read and write a dictionary of channels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from rag.operators.signature import Read
from rag.pipelines.execution import Run

__all__ = ["Channels", "Node", "Resolve"]

Channels: TypeAlias = dict[str, Any]
"""The channels of one run by name: private to it, so nodes write in place; the values themselves never change."""

Resolve: TypeAlias = Callable[[str, Read], Any]
"""Gives a node (by name) the resource that one of its parameters asks for."""


class Node(ABC):
    """A compiled flow. The four ways to run it give the same result; `run` may be None when nobody observes."""

    name: str
    waits: bool
    """Whether it waits for something or releases the interpreter lock, so that a thread of its own pays."""

    @abstractmethod
    def bind(self, resolve: Resolve) -> None:
        """Fetch the resources, once, before the first run."""

    @abstractmethod
    def run(self, values: Channels, run: Run | None) -> None: ...

    @abstractmethod
    def run_batch(self, batch: list[Channels], run: Run | None) -> None: ...

    @abstractmethod
    async def arun(self, values: Channels, run: Run | None) -> None: ...

    @abstractmethod
    def describe(self, depth: int = 0) -> Iterator[str]:
        """Lines for `explain()`."""
