"""CSV and TSV: a document a row where a column holds prose, otherwise a document a file."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rag.errors import InputError, did_you_mean
from rag.operators.indexing.readers.base import ReaderSettings, ReadFailure, reader
from rag.operators.indexing.readers.decode import read_decoded
from rag.operators.indexing.readers.records import Fields, RecordIds
from rag.operators.indexing.readers.values import scalar
from rag.types import Document

__all__ = ["read_csv"]

_SAMPLE_ROWS = 100
_PROSE_CHARACTERS = 40
_PROSE_WORDS = 6


@reader(".csv", ".tsv", ".tab")
def read_csv(path: Path, id: str, settings: ReaderSettings) -> Iterator[Document | ReadFailure]:
    """The first row names the columns; the delimiter is found by looking (comma, semicolon, tab, bar).

    As rows: `text` is the text column (named by the settings, or called text, content, abstract, ..., or the one that
    reads like prose), or without one all cells as "column: value" lines; the other columns are metadata, numbers as
    numbers. The id is path#ID, by the id column or else the row's number from 1. As a file: one document, each row a
    line "column: value, column: value".
    """
    text, _ = read_decoded(path, settings)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else _delimiter(text)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    failures: list[ReadFailure] = []
    rows = _rows(table, id, failures)
    header = _header(next(rows, []))
    if header:
        sample = list(itertools.islice(rows, _SAMPLE_ROWS))
        columns = _Columns(header, sample, settings)
        rows = itertools.chain(sample, rows)
        if settings.tables == "file" or (settings.tables == "auto" and columns.text is None):
            lines = (", ".join(_cells(header, row)) for row in rows)
            yield Document(id, "\n".join(filter(None, lines)), {"format": "table", "columns": header})
        else:
            yield from columns.documents(rows, id)
    yield from failures


class _Columns:
    """Which columns of a table are text, title and id."""

    def __init__(self, header: list[str], sample: list[list[str]], settings: ReaderSettings) -> None:
        for setting in ("text_field", "title_field", "id_field"):
            name = getattr(settings, setting)
            if name is not None and name not in header:
                raise InputError(f"no column {name!r} ({setting}); {did_you_mean(name, header)}")
        fields = Fields(settings)
        self.header = header
        self.title = fields.title_in(header)
        self.id = fields.id_in(header)
        self.text = fields.text_in(header) or _prose_column(header, sample)

    def documents(self, rows: Iterable[Sequence[str]], id: str) -> Iterator[Document | ReadFailure]:
        ids = RecordIds(id)
        for number, row in enumerate(rows, start=1):
            cells = {name: cell for name, cell in zip(self.header, row, strict=False) if cell.strip()}
            if not cells:
                continue
            title = cells.get(self.title or "")
            text = cells.get(self.text or "", title) if self.text else "\n".join(_cells(self.header, row))
            rest = {n: scalar(c) for n, c in cells.items() if n not in (self.text, self.title, self.id)}
            metadata: dict[str, Any] = {**rest, **({"title": title} if title else {}), "format": "record"}
            try:
                if not text:
                    raise InputError(f"the text column {self.text!r} is empty")
                yield Document(ids.take(cells.get(self.id or "", number)), text, metadata)
            except InputError as error:
                yield ReadFailure(id, f"row {number}: {error.message}", True)


def _rows(table: Any, id: str, failures: list[ReadFailure]) -> Iterator[list[str]]:
    """The rows up to the first that cannot be parsed, which is added to `failures`."""
    try:
        yield from table
    except csv.Error as error:
        failures.append(ReadFailure(id, f"line {table.line_num}: {error}; the rows from there on are left out", True))


def _delimiter(text: str) -> str:
    try:
        return csv.Sniffer().sniff(text[:16_384], delimiters=",;\t|").delimiter
    except csv.Error:  # nothing to go by, such as a single column
        return ","


def _header(row: list[str]) -> list[str]:
    """The column names, each different and none empty."""
    names: list[str] = []
    for number, cell in enumerate(row, start=1):
        name = " ".join(cell.split()) or f"column {number}"
        while name in names:
            name += "_"
        names.append(name)
    return names


def _prose_column(header: list[str], sample: list[list[str]]) -> str | None:
    """The column with the longest cells on average, if they have several words and are long enough to be prose."""
    best, most = None, float(_PROSE_CHARACTERS)
    for at, name in enumerate(header):
        cells = [row[at] for row in sample if at < len(row) and row[at].strip()]
        length = sum(map(len, cells)) / len(cells) if cells else 0.0
        if length >= most and sum(len(cell.split()) for cell in cells) >= _PROSE_WORDS * len(cells):
            best, most = name, length
    return best


def _cells(header: Sequence[str], row: Sequence[str]) -> list[str]:
    return [f"{name}: {' '.join(cell.split())}" for name, cell in zip(header, row, strict=False) if cell.strip()]
