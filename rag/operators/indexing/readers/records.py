"""JSON records: JSON Lines as in BEIR data sets (also gzipped), and JSON files."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rag.errors import InputError
from rag.operators.indexing.readers.base import ReaderSettings, ReadFailure, reader
from rag.operators.indexing.readers.decode import decode, read_decoded
from rag.operators.indexing.readers.values import json_values
from rag.types import Document

__all__ = ["Fields", "RecordIds", "read_json", "read_json_lines"]

_TEXT = ("text", "contents", "content", "body", "abstract", "passage", "description", "article", "review", "comment")
_TITLE = ("title", "name", "headline", "subject")
_ID = ("_id", "id", "doc_id", "docid", "uid", "key")
_MOST_REPORTED = 20


class Fields:
    """Which fields of a record are its text, title and id: as the settings say, or else by their usual names."""

    def __init__(self, settings: ReaderSettings) -> None:
        self._text = (settings.text_field,) if settings.text_field else _TEXT
        self._title = (settings.title_field,) if settings.title_field else _TITLE
        self._id = (settings.id_field,) if settings.id_field else _ID

    def text_in(self, names: Sequence[str]) -> str | None:
        return _first(self._text, names)

    def title_in(self, names: Sequence[str]) -> str | None:
        return _first(self._title, names)

    def id_in(self, names: Sequence[str]) -> str | None:
        return _first(self._id, names)


class RecordIds:
    """Document ids of the records of one file, each different: path#name."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._seen: set[str] = set()

    def take(self, name: Any) -> str:
        """The document id; InputError when a record before had the same."""
        name = str(name)
        if name in self._seen:
            raise InputError(f"the id {name!r} occurred before")
        self._seen.add(name)
        return f"{self._file}#{name}"


@reader(".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
def read_json_lines(path: Path, id: str, settings: ReaderSettings) -> Iterator[Document | ReadFailure]:
    """One document a line: its text, title and id field (see `Fields`), all others as metadata; format "record".

    The id is path#ID, the line's number from 1 where it has none. A record without text has its title as text, and
    without both its string fields as "name: value" lines. A line that is no record is a failure of its own. The file
    is read as a stream, however large it is.
    """
    failures = 0
    ids, fields = RecordIds(id), Fields(settings)
    with path.open("rb") as raw, _unpacked(raw, path) as file:
        try:
            for number, line in enumerate(_lines(file, settings.max_bytes), start=1):
                if not line.strip():
                    continue
                try:
                    text, _ = decode(line, settings.encoding or "utf-8")
                    yield _document(ids, json.loads(text), fields, number)
                except (ValueError, RecursionError) as error:  # InputError and JSONDecodeError are ValueErrors
                    failures += 1
                    if failures <= _MOST_REPORTED:
                        yield ReadFailure(id, f"line {number}: {_said(error)}", True)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"damaged: {error}") from None
    if failures > _MOST_REPORTED:
        yield ReadFailure(id, f"{failures - _MOST_REPORTED:,} further lines cannot be read", True)


@reader(".json")
def read_json(path: Path, id: str, settings: ReaderSettings) -> Iterator[Document | ReadFailure]:
    """A list of objects is read like JSON Lines, record by record; any other JSON is one document of format "code"."""
    text, _ = read_decoded(path, settings)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"line {error.lineno}: not JSON: {error.msg}") from None
    if not (isinstance(content, list) and content and all(isinstance(item, dict) for item in content)):
        yield Document(id, text, {"format": "code", "language": "json"})
        return
    ids, fields = RecordIds(id), Fields(settings)
    for number, item in enumerate(content, start=1):
        yield _document_or_failure(ids, item, fields, number, id)


def _document_or_failure(ids: RecordIds, item: Any, fields: Fields, number: int, id: str) -> Document | ReadFailure:
    try:
        return _document(ids, item, fields, number)
    except InputError as error:
        return ReadFailure(id, f"record {number}: {error.message}", True)


def _document(ids: RecordIds, record: Any, fields: Fields, number: int) -> Document:
    if not isinstance(record, dict):
        raise InputError(f"a record is an object, this is {json.dumps(record)[:40]}")
    names = list(record)
    text_name, title_name, id_name = fields.text_in(names), fields.title_in(names), fields.id_in(names)
    rest = {name: value for name, value in record.items() if name not in (text_name, title_name, id_name)}
    inner = rest.pop("metadata", None)  # BEIR keeps further fields there
    metadata = json_values({**rest, **inner} if isinstance(inner, Mapping) else rest)
    title = record[title_name] if title_name else None
    if isinstance(title, str) and title.strip():
        metadata["title"] = title
    text = record[text_name] if text_name else None
    if not isinstance(text, str) or not text.strip():
        lines = [f"{name}: {value}" for name, value in rest.items() if isinstance(value, str) and value.strip()]
        text = metadata.get("title", "") if text_name else "\n".join([*_titled(metadata), *lines])
    if not text.strip():
        raise InputError("the record holds no text")
    name = record[id_name] if id_name and isinstance(record[id_name], str | int) else number
    return Document(ids.take(name), text, {**metadata, "format": "record"})


def _titled(metadata: Mapping[str, Any]) -> list[str]:
    return [metadata["title"]] if "title" in metadata else []


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((name if name in names else lower[name] for name in wanted if name in names or name in lower), None)


def _unpacked(raw: IO[bytes], path: Path) -> IO[bytes]:
    return gzip.GzipFile(fileobj=raw) if path.suffix.lower() == ".gz" else raw  # type: ignore[return-value]


def _lines(file: IO[bytes], most: int) -> Iterator[bytes]:
    first = True
    while line := file.readline(most + 1):
        if len(line) > most:
            raise InputError(f"a line is longer than max_bytes = {most:,}")
        yield line.removeprefix(b"\xef\xbb\xbf") if first else line
        first = False


def _said(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON at character {error.colno}: {error.msg}"
    return error.message if isinstance(error, InputError) else f"not JSON that can be read: {error}"
