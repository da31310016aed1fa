"""The values of a channel in a few words, for a trace: how many hits, which route, how long an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rag.types import Answer, Context, Hits, Query

__all__ = ["in_short", "size"]

_LONGEST = 48
"""Characters of a text that are shown."""
_SIZED = (Hits, Context, list, tuple, dict)


def in_short(values: Sequence[Any]) -> str:
    """What these values of one channel are, one an item: their size together, or the values themselves if short."""
    if len(values) == 1:
        return _words(values[0])
    sizes = [size(value) for value in values]
    known = [n for n in sizes if n is not None]
    if known and len(known) == len(values):
        return _counted(sum(known), values[0])
    counted = Counter(_words(value) for value in values)
    parts = [text if count == 1 else f"{text} {count}×" for text, count in counted.most_common(3)]
    return ", ".join(parts) + (", …" if len(counted) > 3 else "")


def size(value: Any) -> int | None:
    """How many hits, passages, queries, items; None of what is no collection."""
    return len(value) if isinstance(value, _SIZED) else None


def _counted(count: int, value: Any) -> str:
    return f"{count} passages" if isinstance(value, Context) else str(count)


def _words(value: Any) -> str:
    if isinstance(value, _SIZED):
        return _counted(len(value), value)
    if isinstance(value, Answer):
        count = len(value.text.split())
        return ("" if value.found else "not found, ") + f"{count} word" + "s" * (count != 1)
    if isinstance(value, Query):
        return _clipped(value.text) + (f" as {len(value.vector)} numbers" if value.vector is not None else "")
    if isinstance(value, int):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return _clipped(value)
    return type(value).__name__


def _clipped(text: str) -> str:
    words = text.split()
    if len(words) == 1 and len(text) <= _LONGEST:
        return words[0]
    line = " ".join(words)
    return f"“{line if len(line) <= _LONGEST else line[: _LONGEST - 1] + '…'}”"
