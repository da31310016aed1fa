"""The registry of readers: which function turns a file of which suffix into documents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field

from rag.errors import InputError, MissingExtraError
from rag.operators.indexing.options import Options
from rag.types import Document

__all__ = ["ReadFailure", "Reader", "ReaderSettings", "document_id", "read", "reader", "reader_for", "suffixes"]


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """A file (or, when `partial`, only a part of it such as one line) that could not be read, and why."""

    path: str
    reason: str
    partial: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ReaderSettings(Options):
    """How files become documents."""

    max_bytes: int = Field(
        200_000_000, ge=1, description="largest file, unpacked archive or single line of JSONL that is read, in bytes"
    )
    tables: Literal["auto", "rows", "file"] = Field(
        "auto", description="CSV: a document a row, a document a file, or rows only when a column holds prose"
    )
    text_field: str | None = Field(
        None, description="CSV column or JSON field that holds the text; found by name if unset"
    )
    title_field: str | None = Field(None, description="CSV column or JSON field that holds the title")
    id_field: str | None = Field(None, description="CSV column or JSON field that identifies the record in its file")
    encoding: str | None = Field(None, description="character encoding of all text files; detected a file if unset")


Reader: TypeAlias = Callable[[Path, str, ReaderSettings], Iterator[Document | ReadFailure]]
"""Reads the file at a path under a document id. It yields failures of parts and raises for the whole file."""

_READERS: dict[str, Reader] = {}
_SURROGATES = re.compile("[\ud800-\udfff]")


def reader(*names: str) -> Callable[[Reader], Reader]:
    """Register a reader for file names that end so (".md", ".jsonl.gz"; lower case), replacing an earlier one."""
    for name in names:
        if not name.startswith(".") or name != name.lower():
            raise InputError(f"reader: suffix {name!r}", hint='give it in lower case with its dot, such as ".md"')

    def register(function: Reader) -> Reader:
        _READERS.update(dict.fromkeys(names, function))
        return function

    return register


def reader_for(path: Path) -> Reader | None:
    """The reader for this file name; its longest registered suffix decides."""
    parts = path.name.lower().split(".")
    for first in range(1, len(parts)):
        if found := _READERS.get("." + ".".join(parts[first:])):
            return found
    return None


def suffixes() -> list[str]:
    """The suffixes that have a reader, sorted."""
    return sorted(_READERS)


def document_id(path: Path, root: Path) -> str:
    """The path relative to `root` with forward slashes; "#" sets off a record, so in names it is %23 (and % is %25)."""
    relative = path.relative_to(root).as_posix()
    # A name that is no valid UTF-8 arrives with surrogates, which no database stores.
    readable = relative.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return readable.replace("%", "%25").replace("#", "%23")


def read(
    path: Path, root: Path, settings: ReaderSettings | None = None, name: str | None = None
) -> Iterator[Document | ReadFailure]:
    """The documents of one file, and what could not be read of it; never raises for what the file is or holds.

    `name` (default: the path relative to `root`) is the id of the document; of a file with many they are "name#record".
    A name without a registered suffix is read as plain text.
    """
    from rag.operators.indexing.readers.plain import read_text

    settings = settings or ReaderSettings()
    name = document_id(path, root) if name is None else name
    seen: set[str] = set()
    try:
        for item in (reader_for(path) or read_text)(path, name, settings):
            if isinstance(item, ReadFailure):
                yield item
            elif item.id in seen or item.id.partition("#")[0] != name:
                yield ReadFailure(name, f"its reader gives the document id {item.id!r} twice or out of place", True)
            else:
                seen.add(item.id)
                yield _storable(item)
    except MissingExtraError as error:
        yield ReadFailure(name, f"{error.message}: {error.hint}")
    except InputError as error:
        yield ReadFailure(name, error.message)
    except OSError as error:
        yield ReadFailure(name, (error.strerror or str(error)).lower())
    except RecursionError:
        yield ReadFailure(name, "damaged: nested too deeply")
    except MemoryError:
        yield ReadFailure(name, "too large for the memory of this machine")
    except Exception as error:  # noqa: BLE001  parsers raise anything at all on a damaged file, and the rest must go on
        yield ReadFailure(name, f"damaged: {type(error).__name__}: {error}"[:300])


def _storable(document: Document) -> Document:
    """Lone surrogates, which escapes in JSON and broken PDF fonts produce, cannot be encoded: U+FFFD in their place."""
    metadata = json.dumps(dict(document.metadata), ensure_ascii=False)
    if not any(_SURROGATES.search(text) for text in (document.id, document.text, metadata) if not text.isascii()):
        return document
    clean = (_SURROGATES.sub("\ufffd", text) for text in (document.id, document.text, metadata))
    return Document(next(clean), next(clean), json.loads(next(clean)))
