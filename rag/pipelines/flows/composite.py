"""What the flows that contain other flows have in common: settings and children as fields, a form in YAML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rag.errors import ConfigError
from rag.operators import Flow, Parallel, Sequence
from rag.operators.base import settings_problems

__all__ = ["FORMS", "Composite", "inside"]

FORMS: dict[str, type[Composite]] = {}
"""The composite flows by their key in YAML."""


class Composite(BaseModel, Flow):
    """A flow with settings and with flows inside. Fields of type Flow, or dict[str, Flow], are its children.

    The class keyword `form` is its key in YAML; the fields are the keys below it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    form: ClassVar[str] = ""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            message, hint = settings_problems(error, type(self).model_fields)
            raise ConfigError(f"{self.form}: {message}", hint=hint) from None

    def __init_subclass__(cls, *, form: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.form = form
        FORMS[form] = cls

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        kwargs.pop("form", None)
        super().__pydantic_init_subclass__(**kwargs)

    def children(self) -> Iterator[tuple[str, str | None, Flow]]:
        """The flows inside, in order: field, key in the field when that is a mapping, flow."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Flow):
                yield name, None, value
            elif isinstance(value, dict):
                for key, child in value.items():
                    if isinstance(child, Flow):
                        yield name, key, child

    def child_number(self, field: str, key: str | None = None) -> int:
        """The place of a child among the children, which is its part of a path."""
        return [(name, k) for name, k, _ in self.children()].index((field, key))

    def settings(self) -> dict[str, Any]:
        """The fields that are no flows and differ from their defaults, as JSON values."""
        flows = {name for name, _, _ in self.children()}
        return self.model_dump(mode="json", exclude_defaults=True, exclude=flows)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in type(self).model_fields)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        parts = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Flow) or value != field.get_default(call_default_factory=True):
                parts.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


def inside(flow: Flow) -> Iterable[Flow]:
    """The flows right inside a flow, in order."""
    if isinstance(flow, Sequence):
        return flow.steps
    if isinstance(flow, Parallel):
        return flow.branches
    return [child for _, _, child in flow.children()] if isinstance(flow, Composite) else ()
