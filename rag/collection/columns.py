"""Metadata as columns: every field holds its distinct values once, and a small integer a row.

A filter then tests each distinct value with plain Python, exactly, and spreads the outcomes over the rows with NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MISSING", "Column", "Columns", "comparable"]

MISSING: Any = object()
"""The value of a field in a row that does not have it."""


class Column(NamedTuple):
    """Row i holds `values[codes[i]]`."""

    values: list[Any]
    codes: NDArray[np.int32]


def comparable(value: Any) -> Hashable:
    """Equal for values that are equal as JSON: 1 and 1.0 are, true and 1 are not."""
    if isinstance(value, bool):
        return (bool, value)
    if isinstance(value, list):
        return (list, tuple(comparable(v) for v in value))
    if isinstance(value, dict):
        return (dict, frozenset((name, comparable(v)) for name, v in value.items()))
    return value  # type: ignore[no-any-return]  # None, int, float, str, MISSING: Python's own equality is right


class _Field:
    """A field while it is gathered: values by code, and codes by row, separately for documents and for chunks."""

    def __init__(self) -> None:
        self.values: list[Any] = [MISSING]
        self.code_of: dict[Hashable, int] = {}
        self.rows: tuple[list[int], list[int]] = ([], [])
        self.codes: tuple[list[int], list[int]] = ([], [])

    def put(self, level: int, row: int, value: Any) -> None:
        code = 0
        if value is not MISSING:
            code = self.code_of.setdefault(comparable(value), len(self.values))
            if code == len(self.values):
                self.values.append(value)
        self.rows[level].append(row)
        self.codes[level].append(code)


class Columns:
    """The fields of all documents, and of all chunks: those of their document, overridden by their own.

    Arguments: the ids of the documents and the JSON of their metadata; for each chunk the number of its document
    (int64[chunks]); and the chunks with metadata of their own, as (row, JSON).
    """

    def __init__(
        self,
        documents: list[str],
        metadata: Iterable[str],
        document_of: NDArray[np.int64],
        overrides: Iterable[tuple[int, str]],
    ) -> None:
        self._fields: dict[str, _Field] = {}
        self._within: dict[str, set[str]] = {}
        self._documents = documents
        self._document_of = document_of
        for row, text in enumerate(metadata):
            self._gather(0, row, json.loads(text))
        for row, text in overrides:
            own = json.loads(text)
            for name in own:
                for field in self._within.get(name, ()):
                    self._fields[field].put(1, row, MISSING)  # a chunk's own object replaces all of the document's
            self._gather(1, row, own)

    def _gather(self, level: int, row: int, metadata: Mapping[str, Any]) -> None:
        for top, value in metadata.items():
            for name, leaf in _leaves(top, value) if isinstance(value, dict) else ((top, value),):
                field = self._fields.get(name)
                if field is None:
                    field = self._fields[name] = _Field()
                    self._within.setdefault(top, set()).add(name)
                field.put(level, row, leaf)

    @property
    def names(self) -> list[str]:
        """Fields that occur in some row, and the ones every row has."""
        return ["document", "id", *self._fields]

    def of_documents(self, name: str) -> Column | None:
        """The field as a column over documents; None when no row has it."""
        if name in ("document", "id"):
            return Column(list(self._documents), np.arange(len(self._documents), dtype=np.int32))
        field = self._find(name)
        return None if field is None else Column(field.values, _spread(len(self._documents), field, 0))

    def of_chunks(self, name: str) -> Column | None:
        """The field as a column over chunks; None when no row has it."""
        column = self.of_documents(name)
        if column is None:
            return None
        codes = column.codes[self._document_of]
        field = None if name in ("document", "id") else self._find(name)
        if field is not None:
            codes[field.rows[1]] = field.codes[1]
        return Column(column.values, codes)

    def _find(self, name: str) -> _Field | None:
        return self._fields.get(name) or self._fields.get(name.removeprefix("metadata."))


def _spread(rows: int, field: _Field, level: int) -> NDArray[np.int32]:
    codes = np.zeros(rows, dtype=np.int32)
    codes[field.rows[level]] = field.codes[level]
    return codes


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    else:
        yield name, value
