"""Plain text, Markdown and source code: files whose text is the document, character for character."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rag.errors import InputError
from rag.operators.indexing.markdown_structure import front_matter, title_of
from rag.operators.indexing.readers.base import ReaderSettings, ReadFailure, reader
from rag.operators.indexing.readers.decode import read_decoded
from rag.operators.indexing.readers.values import json_values
from rag.types import Document

__all__ = ["LANGUAGES", "read_code", "read_markdown", "read_text"]

LANGUAGES = {
    ".bash": "shell", ".c": "c", ".cc": "cpp", ".cfg": "ini", ".clj": "clojure", ".cmake": "cmake", ".conf": "ini",
    ".cpp": "cpp", ".cs": "csharp", ".css": "css", ".cu": "cuda", ".cxx": "cpp", ".dart": "dart", ".el": "lisp",
    ".erl": "erlang", ".ex": "elixir", ".exs": "elixir", ".f90": "fortran", ".fs": "fsharp", ".go": "go",
    ".gradle": "groovy", ".graphql": "graphql", ".groovy": "groovy", ".h": "c", ".hpp": "cpp", ".hs": "haskell",
    ".ini": "ini", ".java": "java", ".jl": "julia", ".js": "javascript", ".jsx": "javascript", ".kt": "kotlin",
    ".lisp": "lisp", ".lua": "lua", ".m": "matlab", ".ml": "ocaml", ".mjs": "javascript", ".nim": "nim",
    ".php": "php", ".pl": "perl", ".proto": "protobuf", ".ps1": "powershell", ".py": "python", ".pyi": "python",
    ".pyx": "cython", ".r": "r", ".rb": "ruby", ".rs": "rust", ".scala": "scala", ".scss": "css", ".sh": "shell",
    ".sql": "sql", ".swift": "swift", ".tcl": "tcl", ".tf": "terraform", ".toml": "toml", ".ts": "typescript",
    ".tsx": "typescript", ".vb": "basic", ".vue": "vue", ".xml": "xml", ".yaml": "yaml", ".yml": "yaml",
    ".zig": "zig", ".zsh": "shell",
}  # fmt: skip
"""Suffixes that are read as source code, and the language written to the metadata."""


@reader(".txt", ".text", ".rst", ".log", ".tex", ".org", ".adoc")
def read_text(path: Path, id: str, settings: ReaderSettings) -> Iterator[Document]:
    """One document: the decoded file exactly. Metadata: format "text", and the encoding unless it is UTF-8."""
    text, encoding = read_decoded(path, settings)
    yield Document(id, text, _base("text", encoding))


@reader(*LANGUAGES)
def read_code(path: Path, id: str, settings: ReaderSettings) -> Iterator[Document]:
    """One document: the decoded file exactly. Metadata: format "code", language."""
    text, encoding = read_decoded(path, settings)
    yield Document(id, text, {**_base("code", encoding), "language": LANGUAGES.get(path.suffix.lower(), "text")})


@reader(".md", ".markdown", ".mdx", ".qmd", ".rmd")
def read_markdown(path: Path, id: str, settings: ReaderSettings) -> Iterator[Document | ReadFailure]:
    """One document: the decoded file exactly, front matter included.

    Metadata: the YAML front matter, `title` (of the front matter or the first heading), format "markdown".
    """
    text, encoding = read_decoded(path, settings)
    metadata: dict[str, Any] = {}
    if matter := front_matter(text):
        try:
            loaded = yaml.safe_load(matter.yaml)
            metadata = json_values(loaded) if isinstance(loaded, dict) else {}
        except (yaml.YAMLError, InputError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"line {mark.line + 2}: " if mark else ""  # the mark counts from 0, and "---" stands before
            yield ReadFailure(id, f"{where}front matter left out: {getattr(error, 'problem', None) or error}", True)
    if not metadata.get("title") and (title := title_of(text)):
        metadata["title"] = title
    yield Document(id, text, {**metadata, **_base("markdown", encoding)})


def _base(format: str, encoding: str) -> dict[str, Any]:
    return {"format": format} if encoding == "utf-8" else {"format": format, "encoding": encoding}
