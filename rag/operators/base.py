"""The operator: settings as fields, one method `run`, channels by its signature.

    class Shorten(Operator, name="post_retrieval.shorten"):
        \"\"\"Keep the best hits.\"\"\"

        k: int = Field(8, ge=1, description="hits to keep")

        def run(self, hits: Hits) -> Hits:
            return hits.top(self.k)

The parameters of `run` are the channels that it reads; one that is optional or has a default may be absent, and one
declared as a list of what the channel holds collects the values of parallel branches. Its return annotation is what
it writes: a type that has a channel of its own, `Annotated[T, Channel("name")]`, or a NamedTuple of channels. A
parameter whose type is a resource (Collection, Encoder, ChatModel) is bound once, when the pipeline is built.

`run` must not change what it is given. It may be `async def`, or a generator that yields `Delta`s and at last its
result. `run_batch`, where it is defined, takes lists of the same channels (resources as they are), returns a list, and
must equal `run` one by one.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rag.errors import ConfigError, did_you_mean
from rag.operators.flow import Flow
from rag.operators.registry import register
from rag.operators.signature import Signature, signature_of

__all__ = ["Operator", "operator"]


if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


class _OperatorType(ModelMetaclass):
    """Lets a class line say `name=`: up to Python 3.10 the type machinery takes that word for itself."""

    def __new__(mcs, cls_name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **keywords: Any) -> type:
        if "name" in keywords:
            keywords["operator_name"] = keywords.pop("name")
        return super().__new__(mcs, cls_name, bases, namespace, **keywords)


class Operator(BaseModel, Flow, metaclass=_OperatorType):
    """Base of all operators: an immutable bundle of settings with a method `run`.

    Class keywords: `name`, "module.operator" (default: custom.class_name); `deterministic` (default True), whether
    equal inputs give equal outputs, so that results may be cached; `waits` (default False), whether it waits for
    something or releases the interpreter lock, so that parallel branches with it run in threads.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    operator_name: ClassVar[str] = ""
    deterministic: ClassVar[bool] = True
    waits: ClassVar[bool] = False
    run: ClassVar[Any]
    _settings_in_run: ClassVar[frozenset[str]] = frozenset()
    _signature: ClassVar[Signature | None] = None
    _defined_among: ClassVar[Mapping[str, Any]] = types.MappingProxyType({})

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            message, hint = settings_problems(error, type(self).model_fields)
            raise ConfigError(f"operator {self.operator_name}: {message}", hint=hint) from None

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        operator_name: str | None = None,
        deterministic: bool | None = None,
        waits: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.operator_name = operator_name or "custom." + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        if deterministic is not None:
            cls.deterministic = deterministic
        if waits is not None:
            cls.waits = waits
        cls._signature = None
        if not hasattr(cls, "run"):
            return
        cls._defined_among = _names_around_definition()
        try:
            cls.signature()
            cls._defined_among = types.MappingProxyType({})
        except NameError:
            pass  # a name that is defined further down; looked up again when the signature is first asked for
        register(cls.operator_name, cls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        for keyword in ("operator_name", "deterministic", "waits"):
            kwargs.pop(keyword, None)
        super().__init_subclass__(**kwargs)

    @classmethod
    def signature(cls) -> Signature:
        """What `run` reads, needs and writes."""
        if cls._signature is None:
            run = inspect.unwrap(cls.run)
            cls._signature = signature_of(run, cls.operator_name, cls._defined_among, cls._settings_in_run)
        return cls._signature

    def settings(self) -> dict[str, Any]:
        """The settings that differ from their defaults, as JSON values."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def __repr__(self) -> str:
        changed = self.model_dump(exclude_defaults=True)
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Operator):
            return NotImplemented
        return type(self) is type(other) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash((type(self), self.model_dump_json()))


def operator(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    deterministic: bool = True,
    waits: bool = False,
) -> Any:
    """Make an operator class of a function: its positional parameters are channels, its keyword-only ones settings.

    @operator
    def shorten(hits: Hits, *, k: int = 8) -> Hits:
        \"\"\"Keep the best hits.\"\"\"
        return hits.top(k)

    flow = Dense() >> shorten(k=3)
    """
    if function is None:
        return lambda f: operator(f, name=name, deterministic=deterministic, waits=waits)
    settings = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    hints: dict[str, Any] = {}
    if settings:
        hints = typing.get_type_hints(function, localns=dict(_names_around_definition()), include_extras=True)
    namespace: dict[str, Any] = {
        "__annotations__": {p.name: hints.get(p.name, Any) for p in settings},
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "_settings_in_run": frozenset(p.name for p in settings),
        "run": _as_method(function, [p.name for p in settings]),
    }
    namespace.update({p.name: p.default for p in settings if p.default is not inspect.Parameter.empty})
    keywords = {"name": name or f"custom.{function.__name__}", "deterministic": deterministic, "waits": waits}
    return types.new_class(function.__name__, (Operator,), keywords, lambda ns: ns.update(namespace))


def _as_method(function: Callable[..., Any], settings: list[str]) -> Any:
    """`function` as the `run` of an operator that holds its keyword-only parameters as settings."""
    if not settings:
        return staticmethod(function)

    @functools.wraps(function)
    def run(self: Operator, *channels: Any, **resources: Any) -> Any:
        return function(*channels, **resources, **{name: getattr(self, name) for name in settings})

    return run


def _names_around_definition() -> Mapping[str, Any]:
    """The local names where a class or function is being defined, so that postponed annotations find them."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and _is_machinery(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return {} if frame is None or frame.f_locals is frame.f_globals else dict(frame.f_locals)


def _is_machinery(module: str) -> bool:
    return module == __name__ or module.split(".")[0] in ("pydantic", "abc", "types")


def settings_problems(error: ValidationError, known: Mapping[str, Any]) -> tuple[str, str | None]:
    """What is wrong with settings, in words, and a hint. `known` are the names that there are."""
    problems = []
    hint = None
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown setting {where!r}")
            hint = did_you_mean(where, known) or "it has no settings"
        elif item["type"] == "missing":
            problems.append(f"setting {where!r} is required")
        else:
            given = item.get("input")
            problems.append(f"setting {where!r} is {given!r} ({type(given).__name__}): {item['msg']}")
    return "; ".join(problems), hint
