"""Groups of settings that are no operators: checked like theirs, with the package's own errors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rag.errors import ConfigError, did_you_mean

__all__ = ["Options"]


class Options(BaseModel):
    """Immutable settings; ConfigError names the ones that are unknown or wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _readable(type(self), error) from None


def _readable(cls: type[Options], error: ValidationError) -> ConfigError:
    problems = []
    hint = None
    for item in error.errors():
        where = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown setting {where!r}")
            hint = did_you_mean(where, cls.model_fields)
        else:
            problems.append(f"setting {where!r} is {item['input']!r}: {item['msg']}")
    return ConfigError(f"{cls.__name__}: " + "; ".join(problems), hint=hint)
