"""Jupyter notebooks, rendered as Markdown: the text cells as they are, code cells fenced, outputs left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag.errors import InputError
from rag.operators.indexing.markdown_structure import title_of
from rag.operators.indexing.readers.base import ReaderSettings, reader
from rag.operators.indexing.readers.decode import read_decoded
from rag.types import Document

__all__ = ["read_notebook"]


@reader(".ipynb")
def read_notebook(path: Path, id: str, settings: ReaderSettings) -> Iterator[Document]:
    """One document. Metadata: `title` (first heading), `language`, format "markdown"."""
    text, _ = read_decoded(path, settings)
    try:
        notebook: Any = json.loads(text)
        language = str(notebook.get("metadata", {}).get("kernelspec", {}).get("language") or "python")
        cells = notebook["cells"] if "cells" in notebook else notebook["worksheets"][0]["cells"]
        parts = [part for cell in cells if (part := _cell(cell, language))]
    except json.JSONDecodeError as error:
        raise InputError(f"line {error.lineno}: not JSON: {error.msg}") from None
    except (AttributeError, KeyError, IndexError, TypeError):
        raise InputError("damaged: JSON, but not a notebook") from None
    body = "\n\n".join(parts)
    title = title_of(body)
    yield Document(id, body, {**({"title": title} if title else {}), "format": "markdown", "language": language})


def _cell(cell: Any, language: str) -> str:
    source = cell.get("source", cell.get("input", ""))
    source = ("".join(source) if isinstance(source, list) else str(source)).strip("\n")
    if not source.strip():
        return ""
    if cell["cell_type"] == "code":
        fence = "```" if "```" not in source else "~~~~"
        return f"{fence}{language}\n{source}\n{fence}"
    if cell["cell_type"] == "heading":  # notebooks before version 4
        return "#" * int(cell.get("level", 1)) + " " + source
    return source
