"""Metadata found in files, as the JSON values that a collection stores and filters."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from typing import Any

from rag.errors import InputError

__all__ = ["json_values", "scalar"]

_MOST = 1_000
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)\.\d+([eE][-+]?\d+)?")


def json_values(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """The mapping with string keys and JSON values: nested mappings as "outer.inner", dates as ISO 8601, NaN as None.

    InputError for more than 1,000 values, since a few lines of YAML with aliases can stand for billions.
    """
    flat: dict[str, Any] = {}
    left = [_MOST]
    _flatten("", mapping, flat, left)
    return flat


def scalar(text: str) -> str | int | float | bool | None:
    """The value that a table cell shows: number, true/false, None when empty; "007" and "1e5" stay text."""
    text = text.strip()
    if not text:
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return {"true": True, "false": False}.get(text.lower(), text)


def _flatten(prefix: str, mapping: Mapping[Any, Any], flat: dict[str, Any], left: list[int]) -> None:
    for key, value in mapping.items():
        name = prefix + str(_plain(key, left))
        if isinstance(value, Mapping):
            _flatten(name + ".", value, flat, left)
        else:
            flat[name] = _plain(value, left)


def _plain(value: Any, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        raise InputError(f"more than {_MOST:,} metadata values")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)  # wider ones fit no database column
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date):  # a datetime is one
        return value.isoformat()
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, left) for item in value]
    if isinstance(value, Mapping):  # inside a list there is no name to write it under
        return {str(key): _plain(item, left) for key, item in value.items()}
    return str(value)
