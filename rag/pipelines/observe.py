"""What an observed run keeps of every node: one execution each, nested as the nodes are, across threads and tasks."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rag.pipelines.events import NodeFinished, NodeStarted, Span
from rag.pipelines.meter import Meter, enter, leave
from rag.pipelines.summary import in_short
from rag.types import Usage

if TYPE_CHECKING:
    from rag.models.protocol import PrefillReport
    from rag.operators import Operator
    from rag.pipelines.execution import Run
    from rag.pipelines.node import Channels, Node

__all__ = ["Execution", "current", "traced"]

_around: ContextVar[Execution | None] = ContextVar("rag_execution", default=None)


class Recorder(Protocol):
    """Follows one execution elsewhere, as a span of a tracing library does."""

    def end(self, execution: Execution, error: BaseException | None) -> None: ...


class Execution:
    """One execution of a node, from entering the block to leaving it, with what happens to it in between.

    `kind` is as in `Span`; `batch` are the channels of each item. `owner` is the node itself. An operator comes with
    its `operator` and the `resources` that it is bound to.
    """

    __slots__ = (
        "_meter",
        "_metered",
        "_recorder",
        "_token",
        "around",
        "batch",
        "ended",
        "facts",
        "items",
        "kind",
        "node",
        "notes",
        "number",
        "operator",
        "owner",
        "remembered",
        "resources",
        "round",
        "run",
        "seconds",
        "start",
        "wrote",
    )

    def __init__(
        self,
        run: Run,
        node: str,
        kind: str,
        batch: Sequence[Mapping[str, Any]],
        *,
        owner: object = None,
        operator: Operator | None = None,
        resources: Mapping[str, Any] | None = None,
    ) -> None:
        self.run = run
        self.node, self.kind = node, kind
        self.batch, self.items = batch, len(batch)
        self.owner = owner
        self.operator = operator
        self.resources = resources or {}
        self.notes: Counter[str] = Counter()
        self.facts: dict[str, list[Any]] = {}
        self.ended = 0
        self.wrote: Sequence[Mapping[str, Any]] = ()
        self.remembered = 0
        self.round = 1 if kind in ("loop", "verify") else 0
        self.seconds = 0.0

    @property
    def usage(self) -> Usage:
        """What language models consumed inside, so far."""
        return self._meter.usage

    @property
    def prefills(self) -> Sequence[PrefillReport]:
        """How the prompts of its own calls were read with a cache, so far."""
        return self._meter.prefills

    def __enter__(self) -> Execution:
        run = self.run
        run.check()
        self.around = current(run)
        self.number = next(run.numbers)
        self._token: Token[Execution | None] = _around.set(self)
        self._meter: Meter
        self._meter, self._metered = enter()
        self.start = run.clock()
        if self.kind == "operator":
            run.emit(NodeStarted(self.node))
        self._recorder: Recorder | None = run.recorder(self) if run.recorder is not None else None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        run = self.run
        self.seconds = run.clock() - self.start
        leave(self._metered)
        for prefill in self.prefills:
            self.notes[str(prefill).partition("\n")[0]] += 1
        _around.reset(self._token)
        if self._recorder is not None:
            self._recorder.end(self, error)
        why = "" if error is None else f"{type(error).__name__}: {getattr(error, 'message', error)}"
        channels = self.wrote[0] if self.wrote else {}
        run.spans.append(
            Span(
                self.node,
                self.start - run.began,
                self.seconds,
                self.items,
                "; ".join(text if count == 1 else f"{text} ({count}×)" for text, count in self.notes.items()),
                self.usage,
                self.kind,
                self.number,
                None if self.around is None else self.around.number,
                0 if self.around is None else self.around.round,
                {channel: in_short([item[channel] for item in self.wrote]) for channel in channels},
                self.remembered,
                why,
                tuple(self.prefills),
            )
        )
        if self.kind == "operator":
            run.emit(NodeFinished(self.node, self.seconds, self.wrote, why, self.usage))

    def tell(self, text: str, facts: Mapping[str, Any]) -> None:
        """Note a decision, in words and as facts by name."""
        self.notes[text] += 1
        for name, value in facts.items():
            known = self.facts.setdefault(name, [])
            if value not in known:
                known.append(value)


def current(run: Run) -> Execution | None:
    """The innermost execution of this run that the calling thread or task is in."""
    around = _around.get()
    return around if around is not None and around.run.spans is run.spans else None


N = TypeVar("N", bound="type[Node]")


def traced(cls: N) -> N:
    """A class of flow nodes whose observed runs are executions of their own, named and kept as those of operators.

    A node that runs itself by another of its ways is still one execution.
    """
    run, run_batch, arun = cls.run, cls.run_batch, cls.arun

    @functools.wraps(run)
    def traced_run(self: Node, values: Channels, observer: Run | None) -> None:
        if observer is None or _inside(self):
            run(self, values, observer)
        else:
            with _execution(self, observer, [values]):
                run(self, values, observer)

    @functools.wraps(run_batch)
    def traced_run_batch(self: Node, batch: list[Channels], observer: Run | None) -> None:
        if observer is None or _inside(self):
            run_batch(self, batch, observer)
        else:
            with _execution(self, observer, batch):
                run_batch(self, batch, observer)

    @functools.wraps(arun)
    async def traced_arun(self: Node, values: Channels, observer: Run | None) -> None:
        if observer is None or _inside(self):
            await arun(self, values, observer)
        else:
            with _execution(self, observer, [values]):
                await arun(self, values, observer)

    for method in (traced_run, traced_run_batch, traced_arun):
        setattr(cls, method.__name__, method)
    return cls


def _inside(node: Node) -> bool:
    around = _around.get()
    return around is not None and around.owner is node


def _execution(node: Node, run: Run, batch: Sequence[Channels]) -> Execution:
    form = node.name.partition(":")[0].partition(" ")[0]  # nodes of one form are numbered: loop, loop:2, ...
    return Execution(run, node.name, form, batch, owner=node)
