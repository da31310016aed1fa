"""From a flow to a plan: every name, channel and type is checked before anything runs or is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from types import MappingProxyType
from typing import Any, TypeAlias, Union

from rag.errors import FlowError, did_you_mean
from rag.operators import Flow, Operator, Parallel, Sequence, catalogue
from rag.operators.registry import short_name
from rag.operators.signature import STANDARD_CHANNELS, Read, assignable, show_type, strip_optional
from rag.pipelines.node import Node
from rag.pipelines.parallel import Branches, Chain, Merge
from rag.pipelines.step import Argument, Step
from rag.pipelines.unread import Unread

__all__ = [
    "Checker",
    "Path",
    "Plan",
    "Scope",
    "Slot",
    "argument",
    "compile_flow",
    "make_plan",
    "merge_scopes",
    "union_type",
]

Path: TypeAlias = tuple[int, ...]
"""Where a flow stands in the tree: the number of the child to take at each level."""

WriteId: TypeAlias = tuple[Path, str]
"""One write: where the flow stands that does it, and the channel."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What is known of a channel at one place in the flow.

    `spread`: it holds a list with one value of `type` for each parallel branch. `by_branch`: branches before wrote over
    this input of the pipeline; it holds what it held before them, and the channel of this name holds their values.
    `sure`: it is there whichever way the run took. `writer` names the node, None for an input; `writes` are the writes
    whose values it may hold.
    """

    type: Any
    writer: str | None = None
    spread: bool = False
    by_branch: str | None = None
    sure: bool = True
    writes: frozenset[WriteId] = frozenset()


Scope: TypeAlias = Mapping[str, Slot]


@dataclass
class Checker:
    """What is collected while a flow is compiled: names of nodes, problems, warnings, inputs that may be handed in.

    `within` is the name of the pipeline that is compiled as a part of another; its nodes are called by both names.
    """

    lines: Mapping[Path, int]
    inputs: frozenset[str]
    within: str = ""
    problems: list[FlowError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)
    optional_inputs: dict[str, Any] = field(default_factory=dict)
    unread: Unread = field(default_factory=Unread)

    def name(self, base: str) -> str:
        self.names[base] += 1
        name = base if self.names[base] == 1 else f"{base}:{self.names[base]}"
        return f"{self.within}/{name}" if self.within else name

    def trial(self) -> Checker:
        """A checker whose findings are thrown away, for a first look at what a flow writes."""
        names, optional = Counter(self.names), dict(self.optional_inputs)
        return Checker({}, self.inputs, self.within, names=names, optional_inputs=optional)

    def writes(self, node: str, path: Path, scope: Scope, kinds: Mapping[str, Any]) -> dict[str, Slot]:
        """What is known of the channels (name to type) that this node writes, after it did."""
        self.unread.write(node, path, {channel: scope.get(channel) for channel in kinds})
        return {c: Slot(kind, node, writes=frozenset({(path, c)})) for c, kind in kinds.items()}

    def read(self, *slots: Slot | None) -> None:
        """Note that a node reads what these hold."""
        self.unread.read.update(*(slot.writes for slot in slots if slot is not None))

    def problem(self, node: str, path: Path, message: str, hint: str) -> None:
        self.problems.append(FlowError(f"{self._where(node, path)}: {message}", hint=hint))

    def warn(self, node: str, path: Path, message: str, hint: str) -> None:
        self.warnings.append(f"{self._where(node, path)}: {message} ({hint})")

    def warn_of_unread(self, final: Scope) -> None:
        """Warn of every node of whose work nothing is left: not read, and not what the flow ends with."""
        for node, path, message, hint in self.unread.found(final):
            self.warn(node, path, message, hint)

    def _where(self, node: str, path: Path) -> str:
        line = self.lines.get(path)
        return f"node {node!r}" + (f" (line {line})" if line is not None else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked flow, ready to be bound to its resources and run.

    `inputs` must be given to a run, `optional_inputs` may be; both map channel names to types. `final` is what is known
    of every channel at the end. `warnings` name nodes that fit, but whose work is lost or that never run.
    """

    root: Node
    inputs: Mapping[str, Any]
    optional_inputs: Mapping[str, Any]
    final: Scope
    warnings: tuple[str, ...] = ()


def make_plan(
    flow: Flow, inputs: Mapping[str, Any], lines: Mapping[Path, int] | None = None, *, within: str = ""
) -> Plan:
    """Check a flow that starts with these input channels (name to type), and compile it.

    `lines` gives the line of a flow in its YAML file by its path; `within` is put before the nodes' names. Raises
    FlowError for the first problem, with the others, if there are more, in its message.
    """
    checker = Checker(lines or {}, frozenset(inputs), within)
    scope: Scope = {name: Slot(kind) for name, kind in inputs.items()}
    root, final = compile_flow(flow, scope, (), checker)
    if checker.problems:
        first, *others = checker.problems
        message = "\n".join([first.message, *(f"also {p.message}" for p in others)])
        raise FlowError(message, hint=first.hint)
    checker.warn_of_unread(final)
    taken, optional = MappingProxyType(dict(inputs)), MappingProxyType(checker.optional_inputs)
    return Plan(root, taken, optional, MappingProxyType(dict(final)), tuple(checker.warnings))


@singledispatch
def compile_flow(flow: Flow, scope: Scope, path: Path, checker: Checker) -> tuple[Node, Scope]:
    """The node for a flow, given what is known of the channels before it; and what is known after it."""
    raise FlowError(f"{flow!r} ({type(flow).__name__}) cannot stand in a flow", hint="use operators, >> and |")


@compile_flow.register
def _operator(flow: Operator, scope: Scope, path: Path, checker: Checker) -> tuple[Node, Scope]:
    name = checker.name(short_name(type(flow)))
    signature = flow.signature()
    arguments = [argument(read, name, scope, path, checker) for read in signature.reads]
    written = checker.writes(name, path, scope, {w.channel: w.type for w in signature.writes})
    for write in signature.writes:
        standard = STANDARD_CHANNELS.get(write.channel)
        if standard is not None and not assignable(write.type, standard):
            checker.problem(
                name,
                path,
                f"writes {show_type(write.type)} to channel {write.channel!r}, which holds {show_type(standard)}",
                "name another channel in its return annotation",
            )
    return Step(name, flow, arguments), {**scope, **written}


@compile_flow.register
def _sequence(flow: Sequence, scope: Scope, path: Path, checker: Checker) -> tuple[Node, Scope]:
    nodes = []
    for i, step in enumerate(flow.steps):
        node, scope = compile_flow(step, scope, (*path, i), checker)
        nodes.append(node)
    if not nodes:
        checker.problem("sequence", path, "has no steps", "give it at least one operator")
    return Chain(nodes), scope


@compile_flow.register
def _parallel(flow: Parallel, scope: Scope, path: Path, checker: Checker) -> tuple[Node, Scope]:
    name = checker.name("parallel")
    compiled = [compile_flow(branch, scope, (*path, i), checker) for i, branch in enumerate(flow.branches)]
    if not compiled:
        checker.problem(name, path, "has no branches", "give it at least one operator")
    after = dict(scope)
    merges = []
    ends = [end for _, end in compiled]
    for channel in dict.fromkeys(c for end in ends for c in end):
        before = scope.get(channel)
        writers = [i for i, end in enumerate(ends) if channel in end and end[channel] is not before]
        if not writers:
            continue
        if before is None and len(writers) == 1:
            merges.append(Merge(channel, channel, (writers[0],), (False,), collect=False))
            after[channel] = ends[writers[0]][channel]
            continue
        parts = [(i, end[channel]) for i, end in enumerate(ends) if channel in end]
        kind = union_type([slot.type for _, slot in parts])
        sources = tuple(i if i in writers else -1 for i, _ in parts)
        spread = tuple(slot.spread for _, slot in parts)
        target = f"{channel} by {name}" if channel in checker.inputs else channel
        merges.append(Merge(channel, target, sources, spread, collect=True))
        after[target] = Slot(kind, name, spread=True, writes=_writes_of(slot for _, slot in parts))
        if target != channel:
            after[channel] = replace(before or parts[0][1], by_branch=target)
    return Branches(name, [node for node, _ in compiled], merges), after


def merge_scopes(ends: Collection[Scope], name: str, path: Path, checker: Checker) -> Scope:
    """What is known after one of several ways was taken, whichever it was; `name` is the node that chooses."""
    merged: dict[str, Slot] = {}
    for channel in dict.fromkeys(c for end in ends for c in end):
        slots = list(dict.fromkeys(end[channel] for end in ends if channel in end))
        sure = all(channel in end and end[channel].sure for end in ends)
        if len({slot.spread for slot in slots}) > 1:
            checker.problem(
                name,
                path,
                f"channel {channel!r} holds several values on one way and one value on another",
                "join the branches on each way",
            )
        if len(slots) == 1:
            # The slot itself where nothing changed: what no way writes over does not count as written.
            merged[channel] = slots[0] if slots[0].sure == sure else replace(slots[0], sure=sure)
        else:
            writers = " or ".join(dict.fromkeys(slot.writer or "the input" for slot in slots))
            by_branch = slots[0].by_branch if len({s.by_branch for s in slots}) == 1 else None
            kind = union_type([slot.type for slot in slots])
            merged[channel] = Slot(kind, writers, slots[0].spread, by_branch, sure, _writes_of(slots))
    return merged


def _writes_of(slots: Iterable[Slot]) -> frozenset[WriteId]:
    return frozenset(write for slot in slots for write in slot.writes)


def union_type(kinds: list[Any]) -> Any:
    """The type that holds all of these."""
    distinct = tuple(dict.fromkeys(kinds))
    return distinct[0] if len(distinct) == 1 else Union[distinct]  # noqa: UP007


def argument(read: Read, name: str, scope: Scope, path: Path, checker: Checker) -> Argument:
    """Where node `name` gets what it reads; a problem is noted when there is none, or none that fits."""
    slot = scope.get(read.channel)
    if slot is None:
        if not read.required:
            checker.optional_inputs.setdefault(read.channel, strip_optional(read.type)[0])
        else:
            _missing(read, name, scope, path, checker)
        return Argument(read.channel, optional=not read.required, default=read.default)
    checker.read(slot)
    as_list = list[slot.type]  # type: ignore[name-defined]
    if not slot.sure and read.required:
        checker.problem(
            name,
            path,
            f"reads channel {read.channel!r}, which {slot.writer!r} writes, but not on every way that leads here",
            f"write it on all of them, or take it as optional: {read.channel}: {show_type(read.type)} | None = None",
        )
    optional = not slot.sure
    if slot.spread:
        if not assignable(as_list, read.type):
            checker.problem(
                name,
                path,
                f"reads channel {read.channel!r} as {show_type(read.type)}, but {slot.writer!r} leaves one "
                f"{show_type(slot.type)} a branch in it",
                f"join the branches first, with an operator that reads {read.channel}: {show_type(as_list)}"
                + (", for example fuse" if read.channel == "hits" else ""),
            )
        return Argument(read.channel, optional=optional, default=read.default)
    if assignable(slot.type, read.type):
        return Argument(read.channel, optional=optional, default=read.default)
    if slot.by_branch is not None and assignable(as_list, read.type):
        checker.read(scope.get(slot.by_branch))
        return Argument(slot.by_branch)
    if not assignable(as_list, read.type):
        checker.problem(
            name,
            path,
            f"reads channel {read.channel!r} as {show_type(read.type)}, but it holds {show_type(slot.type)}, "
            + (f"written by {slot.writer!r}" if slot.writer else "an input of the pipeline"),
            "types are never converted by themselves; put an operator between them",
        )
    return Argument(read.channel, wrap=True, optional=optional, default=read.default)


def _missing(read: Read, name: str, scope: Scope, path: Path, checker: Checker) -> None:
    writers = sorted(
        short_name(cls)
        for cls in catalogue().values()
        if not cls.operator_name.startswith("custom.")
        and any(w.channel == read.channel for w in cls.signature().writes)
    )
    hint = did_you_mean(read.channel, scope) if read.channel not in STANDARD_CHANNELS else ""
    if writers:
        hint = f"put one that writes it before: {', '.join(writers)}"
    elif not hint.startswith("did"):
        hint = f"declare it as an input of the pipeline, or put an operator before that writes {read.channel!r}"
    checker.problem(
        name, path, f"reads channel {read.channel!r} ({show_type(read.type)}), which nothing before it writes", hint
    )
