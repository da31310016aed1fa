"""The pipeline: a checked flow bound to its resources, and the ways to run it."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, get_origin

import rag.pipelines.flows  # noqa: F401  teaches the plan the flows beyond sequence and branches
from rag.errors import ConfigError, InputError, did_you_mean
from rag.operators import Flow
from rag.operators.signature import STANDARD_CHANNELS, Read, show_type
from rag.pipelines.events import Event, Finished
from rag.pipelines.execution import Run
from rag.pipelines.flows.composite import inside
from rag.pipelines.flows.nested import NestedNode, remembering
from rag.pipelines.memo import Checkpoint, ContentCache, Memo
from rag.pipelines.node import Node
from rag.pipelines.parallel import Whole
from rag.pipelines.plan import Checker, Plan, Scope, Slot, argument, compile_flow, make_plan, merge_scopes
from rag.pipelines.plan import Path as FlowPath
from rag.pipelines.rewrite import EmbedsTokens
from rag.pipelines.rewrite import rewrite as rewritten
from rag.pipelines.spans import tracing
from rag.types import Query, State

__all__ = ["Pipeline", "RunInput"]

RunInput: TypeAlias = "str | Query | Mapping[str, Any]"
"""What one run starts from: a question, or all input channels by name."""


class Pipeline(Flow):
    """A flow that was checked and bound, ready to run; and a part of a larger flow, like any other.

        hybrid = (Dense(k=100) | BM25(k=100)) >> Fuse()
        pipeline = Pipeline(hybrid >> AsContext() >> ExtractiveAnswer(), collection="kb")
        print(pipeline.run("what is a manifest?").answer.text)

    `collection`, `encoder` and `llm` are resources, each an object or what names one (a folder, "all-MiniLM-L6-v2",
    "openai:gpt-4o-mini"); `resources` holds further ones by parameter name. `cache` keeps results of deterministic
    operators; `rewrite` lets the plan do the same with less work. `inputs` are the channels that a run starts
    with, by name and type; standard channels may be given as a list of names. The default is `query` alone.

    In a flow, a pipeline gets its inputs from the channels of these names, gives back all that it writes, and does in
    between what it does alone. Resources that it has stay its own; those that it has not are those of the pipeline
    around it. Its nodes are then called "name/node".

    Raises FlowError when the flow does not fit together, before any resource is opened.
    """

    def __init__(
        self,
        flow: Flow,
        *,
        collection: Any = None,
        encoder: Any = None,
        llm: Any = None,
        resources: Mapping[str, Any] | None = None,
        cache: ContentCache | None = None,
        rewrite: bool = True,
        inputs: Mapping[str, Any] | Sequence[str] = ("query",),
        name: str = "",
        description: str = "",
        lines: Mapping[FlowPath, int] | None = None,
    ) -> None:
        self.flow = flow
        self.name = name
        self.description = description
        self.cache = cache
        self.inputs = _input_types(inputs)
        given = {"collection": collection, "encoder": encoder, "llm": llm, **(resources or {})}
        self.resources = {key: value for key, value in given.items() if value is not None}
        self.reference = ""
        """How the YAML file of another pipeline names it: a file or a ready-made pipeline; empty when none does."""
        self._plan = make_plan(flow, self.inputs, lines)
        self.runs_as = rewritten(flow) if rewrite else flow
        """The flow that is run: equal to `flow`, with less work."""
        if self.runs_as != flow:
            self._plan = replace(make_plan(self.runs_as, self.inputs), warnings=self._plan.warnings)
        self._whole = Whole(name or "pipeline", self._plan.root)
        self._bound = False
        self._binding = threading.Lock()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pipeline):
            return NotImplemented
        mine = (self.flow, self.inputs, self.resources, self.name, self.description)
        return mine == (other.flow, other.inputs, other.resources, other.name, other.description)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Pipeline({self.flow!r}{f', name={self.name!r}' if self.name else ''})"

    def bind(self) -> Pipeline:
        """Open the resources and hand them to the operators; done by the first run when it was not done before.

        Raises FlowError when an operator needs a resource that the pipeline has not, and what opening one raises.
        """
        if not self._bound:
            with self._binding:
                if not self._bound:
                    from rag.pipelines.resources import resolver  # collections and models are not needed to check

                    self._whole.bind(resolver(self.resources))
                    self._bound = True
        return self

    def run(
        self,
        query: RunInput | None = None,
        *,
        observe: Run | None = None,
        checkpoint: Checkpoint | None = None,
        **inputs: Any,
    ) -> State:
        """Run once; the state at the end holds every channel, e.g. `.answer` or `.hits`.

        `observe` collects spans and events; with a `checkpoint`, what it holds is not run again. Raises InputError for
        a wrong input and RagError, naming the node, for whatever goes wrong in an operator.
        """
        self.bind()
        values = self._start(query, inputs)
        self._whole.run(values, self._observed(observe, checkpoint))
        return State(values)

    def run_batch(self, queries: Sequence[RunInput], *, observe: Run | None = None) -> list[State]:
        """Run for many inputs at once; equal to `run` one by one, but encoders and indexes see batches."""
        self.bind()
        batch = [self._start(q, {}) for q in queries]
        if batch:
            self._whole.run_batch(batch, self._observed(observe))
        return [State(values) for values in batch]

    def stream(self, query: RunInput | None = None, **inputs: Any) -> Iterator[Event]:
        """Run once and hand out events while it goes on; the last is `Finished`. Closing the iterator stops the run."""
        self.bind()
        values = self._start(query, inputs)
        events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        run = Run(events.put, memos=self._memos())

        def work() -> None:
            try:
                self._whole.run(values, run)
                events.put(Finished(State(values)))
            except BaseException as error:  # noqa: BLE001  raised again where the events are read
                events.put(error)

        context = contextvars.copy_context()  # what is traced around the caller is around the run too
        worker = threading.Thread(target=context.run, args=(work,), name="rag-stream", daemon=True)
        worker.start()
        try:
            while True:
                event = events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            run.stop()

    async def arun(
        self,
        query: RunInput | None = None,
        *,
        observe: Run | None = None,
        checkpoint: Checkpoint | None = None,
        **inputs: Any,
    ) -> State:
        """`run` for an event loop."""
        await self._abind()
        values = self._start(query, inputs)
        await self._whole.arun(values, self._observed(observe, checkpoint))
        return State(values)

    async def arun_batch(self, queries: Sequence[RunInput], *, observe: Run | None = None) -> list[State]:
        """`run_batch` for an event loop; it runs in a thread."""
        return await asyncio.to_thread(self.run_batch, queries, observe=observe)

    async def astream(self, query: RunInput | None = None, **inputs: Any) -> AsyncIterator[Event]:
        """`stream` for an event loop. Closing the iterator cancels the run."""
        await self._abind()
        values = self._start(query, inputs)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def emit(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        run = Run(emit, memos=self._memos())
        task = asyncio.ensure_future(self._whole.arun(values, run))
        # The task ends, then the events that threads have posted are all in the queue, then this marker follows them.
        task.add_done_callback(lambda _: loop.call_soon(events.put_nowait, Finished(State(values))))
        try:
            while True:
                event = await events.get()
                if isinstance(event, Finished):
                    await task
                    yield event
                    return
                yield event
        finally:
            run.stop()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def plan(self) -> Plan:
        """What is run: the tree of compiled nodes, the channels at start and end with their types, warnings."""
        return self._plan

    @property
    def outputs(self) -> dict[str, Any]:
        """The channels that a run certainly ends with, and their types; a list where branches left several values."""
        final = self._plan.final.items()
        return {name: list[slot.type] if slot.spread else slot.type for name, slot in final if slot.sure}  # type: ignore[name-defined]

    @property
    def parts(self) -> list[Pipeline]:
        """The pipelines within this one, however deep, in the order of the flow."""
        return [flow for flow in _flows(self.flow) if isinstance(flow, Pipeline)]

    @property
    def uses_tokens(self) -> bool:
        """Whether it, or a pipeline within it, ranks by token vectors, which its collection must then hold."""
        return any(isinstance(flow, EmbedsTokens) and flow.embeds_tokens() for flow in _flows(self))

    def explain(self) -> str:
        """The plan as text: every node with its settings, the channels it reads and writes, the resources it needs.

        Warnings, if there are any, come last.
        """
        plan = self._plan
        inputs = [f"{name}: {show_type(kind)}" for name, kind in plan.inputs.items()]
        optional = [f"{name}?: {show_type(kind)}" for name, kind in plan.optional_inputs.items()]
        lines = [f"inputs  {', '.join(inputs + optional)}"]
        if self.runs_as != self.flow:
            lines += [f"written {self.flow!r}", f"runs as {self.runs_as!r}"]
        lines += [f"  {line}" for line in plan.root.describe()]
        lines.append(f"final   {', '.join(f'{name}: {show_type(kind)}' for name, kind in self.outputs.items())}")
        lines += [f"warning {warning}" for warning in plan.warnings]
        return "\n".join(lines)

    def svg(self) -> str:
        """The plan as an SVG picture, complete in itself; notebooks show it by themselves."""
        from rag.pipelines.draw import to_svg

        return to_svg(self._plan.root, self.name)

    def mermaid(self) -> str:
        """The plan as a Mermaid flowchart."""
        from rag.pipelines.draw import to_mermaid

        return to_mermaid(self._plan.root)

    def _repr_html_(self) -> str:
        return self.svg()

    @classmethod
    def from_yaml(cls, source: str | Path, **resources: Any) -> Pipeline:
        """A pipeline from a YAML file, or from YAML text when `source` holds a line break.

        `resources` (collection=, encoder=, llm=) take the place of those that the file names. Raises ConfigError with
        the line of what is wrong.
        """
        from rag.pipelines.yaml import load

        return load(source, **resources)

    def to_yaml(self) -> str:
        """The pipeline as YAML, with only the settings that differ from their defaults."""
        from rag.pipelines.yaml import dump

        return dump(self)

    def _memos(self, checkpoint: Checkpoint | None = None) -> list[Memo]:
        return [memo for memo in (checkpoint, self.cache) if memo is not None]

    def _observed(self, observe: Run | None, checkpoint: Checkpoint | None = None) -> Run | None:
        """The observer that was given, or one of our own when something has to be remembered or traced."""
        memos = self._memos(checkpoint)
        if observe is None and not memos and tracing():
            return Run()
        return remembering(observe, memos)

    async def _abind(self) -> None:
        if not self._bound:
            await asyncio.to_thread(self.bind)

    def _start(self, query: RunInput | None, inputs: dict[str, Any]) -> dict[str, Any]:
        if isinstance(query, Mapping):
            inputs = {**query, **inputs}
        elif query is not None:
            inputs = {"query": query, **inputs}
        if isinstance(inputs.get("query"), str):
            inputs["query"] = Query(inputs["query"])
        plan = self._plan
        for name, value in inputs.items():
            kind = plan.inputs.get(name) or plan.optional_inputs.get(name)
            if kind is None:
                known = {*plan.inputs, *plan.optional_inputs}
                raise InputError(f"the pipeline has no input {name!r}", hint=did_you_mean(name, known))
            outer = get_origin(kind) or kind
            if isinstance(outer, type) and not isinstance(value, outer):
                raise InputError(f"input {name!r} is {show_type(type(value))}, expected {show_type(kind)}")
        for name in plan.inputs:
            if name not in inputs:
                raise InputError(f"input {name!r} is missing", hint=f"the pipeline takes {', '.join(plan.inputs)}")
        return inputs


def _flows(flow: Flow) -> Iterator[Flow]:
    """A flow and those inside it, however deep, in their order; one before those within it."""
    yield flow
    for part in (flow.flow,) if isinstance(flow, Pipeline) else inside(flow):
        yield from _flows(part)


def _input_types(inputs: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return dict(inputs)
    for name in inputs:
        if name not in STANDARD_CHANNELS:
            hint = did_you_mean(name, STANDARD_CHANNELS) or f"give its type: inputs={{{name!r}: str}}"
            raise ConfigError(f"input {name!r} is no standard channel, so its type is not known", hint=hint)
    return {name: STANDARD_CHANNELS[name] for name in inputs}


@compile_flow.register
def _nested(flow: Pipeline, scope: Scope, path: FlowPath, checker: Checker) -> tuple[Node, Scope]:
    """A pipeline in a flow was checked alone already: what is left is whether the channels around it fit."""
    name = checker.name(flow.name or "pipeline")
    plan = make_plan(flow.runs_as, flow.inputs, within=name)
    reads = [Read(channel, kind) for channel, kind in plan.inputs.items()]
    reads += [Read(channel, kind, required=False) for channel, kind in plan.optional_inputs.items()]
    takes = {read.channel: argument(read, name, scope, path, checker) for read in reads}
    checker.warnings += [f"in {name!r}, {warning}" for warning in flow.plan.warnings]
    # Channels whose names are not identifiers hold what branches inside made of its inputs.
    made = {c: slot for c, slot in plan.final.items() if slot.writer is not None and c.isidentifier()}
    after = dict(scope)
    for channel, written in checker.writes(name, path, scope, {c: slot.type for c, slot in made.items()}).items():
        inside, before = made[channel], scope.get(channel)
        slot: Slot = replace(written, spread=inside.spread, sure=inside.sure)
        if before is not None and not inside.sure:
            slot = merge_scopes([{channel: before}, {channel: replace(slot, sure=True)}], name, path, checker)[channel]
        after[channel] = slot
    memos = [] if flow.cache is None else [flow.cache]
    return NestedNode(name, plan.root, takes, list(made), flow.resources, memos), after
