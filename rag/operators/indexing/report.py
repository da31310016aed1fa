"""What a run of the indexing driver tells while it goes on, and at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rag.operators.indexing.duplicates import Duplicate
from rag.operators.indexing.readers import ReadFailure

__all__ = ["IndexProgress", "IndexReport"]

_STAGES = ("walk", "read", "dedupe", "chunk", "encode", "write")


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far a run has come; `current` is the file being read, or how far the index of a large segment has been built,
    or empty while chunks are encoded."""

    files: int
    total_files: int
    documents: int
    chunks: int
    current: str


@dataclass(slots=True)
class IndexReport:
    """What a run did. Counts are of documents except where their names say otherwise."""

    files: int = 0
    """files found below the paths"""
    files_unchanged: int = 0
    """files not read, since size and time are as before"""
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    empty: int = 0
    """added or changed ones without any text"""
    chunks: int = 0
    """chunks encoded"""
    cut: int = 0
    """chunks of which the encoder reads only the beginning, since they are longer than its `max_tokens`"""
    failures: list[ReadFailure] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    """files without text, by suffix"""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 0.0))
    """by stage: walk, read, dedupe, chunk, encode, write"""
