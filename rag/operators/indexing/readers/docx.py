"""Word documents (DOCX), rendered as Markdown so that headings, lists and tables survive."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag.errors import InputError, MissingExtraError
from rag.operators.indexing.readers.base import ReaderSettings, reader
from rag.operators.indexing.readers.decode import read_bytes
from rag.types import Document

__all__ = ["read_docx"]

_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)


@reader(".docx", ".docm")
def read_docx(path: Path, id: str, settings: ReaderSettings) -> Iterator[Document]:
    """One document: paragraphs, headings, list items and tables in their order.

    Metadata: `title`, `author`, `subject`, `keywords` where given, format "markdown".
    """
    try:
        import docx
        import docx.table
    except ImportError:
        raise MissingExtraError("reading DOCX", "readers") from None
    data = read_bytes(path, settings)
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise InputError("encrypted, or an old .doc: save it as .docx without a password")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise InputError(f"damaged: {error}") from None
    if unpacked > settings.max_bytes:
        raise InputError(f"unpacks to {unpacked:,} bytes, more than max_bytes = {settings.max_bytes:,}")
    try:
        word = docx.Document(io.BytesIO(data))
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"damaged: {error}") from None
    names: dict[str | None, str] = {}  # looking a style up searches all of them
    parts: list[str] = []
    in_list = False
    for item in word.iter_inner_content():
        if isinstance(item, docx.table.Table):
            line, is_item = _table(item), False
        else:
            style = item._p.style
            if style not in names:
                names[style] = (item.style.name if item.style is not None else None) or ""
            line, is_item = _paragraph(item.text, names[style])
        if line:
            if parts:
                parts.append("\n" if is_item and in_list else "\n\n")
            parts.append(line)
            in_list = is_item
    core = word.core_properties
    given = {name: getattr(core, name) for name in ("title", "author", "subject", "keywords")}
    metadata: dict[str, Any] = {name: value.strip() for name, value in given.items() if value and value.strip()}
    yield Document(id, "".join(parts), {**metadata, "format": "markdown"})


def _paragraph(text: str, style: str) -> tuple[str, bool]:
    text = text.strip()
    if not text:
        return "", False
    if style.lower() == "title":
        return "# " + " ".join(text.split()), False
    if match := _HEADING.match(style):
        return "#" * min(int(match[1]) or 1, 6) + " " + " ".join(text.split()), False
    if style.lower().startswith("list"):
        return "- " + text, True
    return text, False


def _table(table: Any) -> str:
    lines = []
    for row in table.rows:
        cells: list[str] = []
        last = None
        for cell in row.cells:
            if cell._tc is not last:  # a merged cell is met once a column
                cells.append(" ".join(cell.text.split()).replace("|", "\\|"))
            last = cell._tc
        lines.append("| " + " | ".join(cells) + " |")
        if len(lines) == 1:
            lines.append("|" + " --- |" * len(cells))
    return "\n".join(lines)
