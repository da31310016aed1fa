"""What an operator reads, needs and writes, taken from the signature of its `run`."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, TypeGuard, Union, get_args, get_origin

from rag.errors import FlowError
from rag.types import Answer, Chunk, Context, Delta, Document, Hits, Message, Query

__all__ = [
    "STANDARD_CHANNELS",
    "Channel",
    "Form",
    "Read",
    "Signature",
    "Write",
    "assignable",
    "is_class",
    "resource_type",
    "show_type",
    "signature_of",
    "strip_optional",
]


@dataclass(frozen=True, slots=True)
class Channel:
    """Names the channel that a return value goes to: `-> Annotated[str, Channel("route")]`."""

    name: str


STANDARD_CHANNELS: dict[str, Any] = {
    "query": Query,
    "queries": list[Query],
    "hits": Hits,
    "context": Context,
    "answer": Answer,
    "draft": Answer,
    "route": str,
    "memory": list[Message],
    "document": Document,
    "documents": list[Document],
    "chunks": list[Chunk],
}
"""The usual channels and their types. Any other name is a channel too, with the type that its writer declares."""

_CHANNEL_OF_TYPE = {t: name for name, t in reversed(STANDARD_CHANNELS.items()) if name not in ("draft", "route")}

Form: TypeAlias = Literal["plain", "async", "stream", "async stream"]


@dataclass(frozen=True, slots=True)
class Read:
    """A channel that `run` takes under its own name; `default` stands in when it is absent and not `required`."""

    channel: str
    type: Any
    required: bool = True
    default: Any = None


@dataclass(frozen=True, slots=True)
class Write:
    """A channel that `run` returns."""

    channel: str
    type: Any


@dataclass(frozen=True, slots=True)
class Signature:
    """What one operator reads from the state, needs bound, and writes; `record` when it returns a NamedTuple."""

    reads: tuple[Read, ...]
    resources: tuple[Read, ...]
    writes: tuple[Write, ...]
    record: bool
    form: Form


_RESOURCE_TYPES: dict[type, str] = {}


def resource_type(cls: type, name: str) -> None:
    """Declare that parameters of this type are resources, bound when a pipeline is built, under this name."""
    _RESOURCE_TYPES[cls] = name


def signature_of(run: Callable[..., Any], owner: str, names: Mapping[str, Any], skip: frozenset[str]) -> Signature:
    """The signature of `run`, resolving postponed annotations with the local `names` where it was defined.

    `owner` names the operator in errors; parameters in `skip` are settings. Raises FlowError for a missing annotation
    or one that is no channel, and NameError for an annotation that cannot be resolved yet.
    """
    hints = typing.get_type_hints(run, localns=dict(names), include_extras=True)
    reads: list[Read] = []
    resources: list[Read] = []
    for name, parameter in inspect.signature(run).parameters.items():
        if name == "self" or name in skip:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise FlowError(
                f"operator {owner}: run takes *{name}, but every parameter is one channel",
                hint="name the channels that it reads",
            )
        if name not in hints:
            raise FlowError(
                f"operator {owner}: parameter {name!r} of run has no type",
                hint=f"annotate it, for example {name}: {show_type(STANDARD_CHANNELS.get(name, Query))}",
            )
        inner, optional = strip_optional(hints[name])
        required = parameter.default is parameter.empty and not optional
        default = None if parameter.default is parameter.empty else parameter.default
        if is_class(inner) and inner in _RESOURCE_TYPES:
            resources.append(Read(name, inner, required, default))
        elif resources:
            raise FlowError(
                f"operator {owner}: channel {name!r} comes after resource {resources[-1].channel!r} in run",
                hint="put the channels first, the resources behind them",
            )
        else:
            reads.append(Read(name, hints[name], required, default))
    if "return" not in hints:
        raise FlowError(
            f"operator {owner}: run has no return type", hint="annotate it with what it writes, e.g. -> Hits"
        )
    form = _form(run)
    written = _streamed(hints["return"], owner) if form.endswith("stream") else hints["return"]
    writes, record = _writes(written, owner)
    return Signature(tuple(reads), tuple(resources), writes, record, form)


def assignable(source: Any, target: Any) -> bool:
    """Whether a value of type `source` may be read as `target`. Nothing is converted: int is no float, str no Query."""
    source, target = _bare(source), _bare(target)
    if target is Any or target is object or source is Any or source == target:
        return True
    if _is_union(source):
        return all(assignable(s, target) for s in get_args(source))
    if _is_union(target):
        return any(assignable(source, t) for t in get_args(target))
    if get_origin(source) is Literal:
        return (
            set(get_args(source)) <= set(get_args(target))
            if get_origin(target) is Literal
            else all(assignable(type(v), target) for v in get_args(source))
        )
    outer_source, outer_target = get_origin(source) or source, get_origin(target) or target
    if not (is_class(outer_source) and is_class(outer_target)):
        return False
    if not issubclass(outer_source, outer_target):
        return False
    inner_source, inner_target = get_args(source), get_args(target)
    if not inner_target or not inner_source:
        return True
    return len(inner_source) == len(inner_target) and all(
        assignable(s, t) for s, t in zip(inner_source, inner_target, strict=True)
    )


def is_class(kind: Any) -> TypeGuard[type]:
    """Whether a type is a plain class; list[int] is none, though Python 3.10 calls it a type."""
    return isinstance(kind, type) and get_origin(kind) is None


def show_type(kind: Any) -> str:
    """A type as one writes it."""
    kind = _bare(kind)
    if kind is type(None):
        return "None"
    if _is_union(kind):
        return " | ".join(show_type(k) for k in get_args(kind))
    if get_origin(kind) is not None:
        outer = get_origin(kind)
        return f"{getattr(outer, '__name__', outer)}[{', '.join(show_type(k) for k in get_args(kind))}]"
    return str(getattr(kind, "__name__", kind))


def _form(run: Callable[..., Any]) -> Form:
    if inspect.isasyncgenfunction(run):
        return "async stream"
    if inspect.iscoroutinefunction(run):
        return "async"
    return "stream" if inspect.isgeneratorfunction(run) else "plain"


def _streamed(kind: Any, owner: str) -> Any:
    """T of a streaming form: Generator[Delta, None, T], Iterator[Delta | T] or AsyncIterator[Delta | T]."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Generator and len(args) == 3 and args[2] is not type(None):
        return args[2]
    if origin in (Iterator, AsyncIterator, Generator, AsyncGenerator) and args and _is_union(args[0]):
        rest = tuple(a for a in get_args(args[0]) if a is not Delta)
        if len(rest) == 1:
            return rest[0]
    raise FlowError(
        f"operator {owner}: run is a generator that returns {show_type(kind)}",
        hint="annotate it as Iterator[Delta | Answer], AsyncIterator[Delta | Answer] or Generator[Delta, None, Answer]",
    )


def _writes(kind: Any, owner: str) -> tuple[tuple[Write, ...], bool]:
    if kind is None or kind is type(None):
        return (), False
    if get_origin(kind) is Annotated:
        channels = [m for m in get_args(kind)[1:] if isinstance(m, Channel)]
        if len(channels) == 1:
            return (Write(channels[0].name, get_args(kind)[0]),), False
    kind = _bare(kind)
    if is_class(kind) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        fields = typing.get_type_hints(kind)
        return tuple(Write(name, fields[name]) for name in kind._fields), True
    for known, name in _CHANNEL_OF_TYPE.items():
        if known == kind or (is_class(kind) and is_class(known) and issubclass(kind, known)):
            return (Write(name, kind),), False
    raise FlowError(
        f"operator {owner}: run returns {show_type(kind)}, and no channel has that type",
        hint=f'name the channel: -> Annotated[{show_type(kind)}, Channel("name")]',
    )


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def strip_optional(kind: Any) -> tuple[Any, bool]:
    """The type without None, and whether None was one of its alternatives."""
    bare = _bare(kind)
    if _is_union(bare) and type(None) in get_args(bare):
        rest = tuple(a for a in get_args(bare) if a is not type(None))
        return (rest[0] if len(rest) == 1 else Union[rest]), True  # noqa: UP007
    return bare, False
