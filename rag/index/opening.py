"""Opening what a file holds, and telling what it is from its header alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag.errors import CollectionError, DamagedFileError
from rag.index.effort import EffortCurve
from rag.index.files import REBUILD, read_sections
from rag.index.graph import GraphIndex
from rag.index.scan import ScanIndex

__all__ = ["IndexFile", "describe", "open_index"]


def open_index(path: str | os.PathLike[str]) -> ScanIndex | GraphIndex:
    """Map a saved index into memory, of whichever kind it is; see `ScanIndex.open`.

    Raises NotFoundError, DamagedFileError, or CollectionError for another kind or a version from the future.
    """
    kind = read_sections(Path(path)).kind
    for index in (ScanIndex, GraphIndex):
        if kind == index.kind:
            return index.open(path)
    raise CollectionError(f"{path} holds an index of kind {kind!r}, neither a scan nor a graph")


@dataclass(frozen=True, slots=True)
class IndexFile:
    """What the header of a file of vectors tells: `rows` are all of them, deleted ones included."""

    kind: str
    """"scan", "graph", or "faiss:" and what faiss was asked for."""
    codec: str
    rows: int
    bytes: Mapping[str, int]
    """By part; all that belongs to a vector is in proportion to `rows`."""
    degree: int | None
    """Links of a vector, at most; None without a graph."""
    effort: EffortCurve | None
    """Recall@10 by window, where a graph has measured it."""


def describe(path: str | os.PathLike[str]) -> IndexFile:
    """What a file of vectors holds, by its header and table; takes as long for a large one as for a small one.

    Raises what `open_index` does.
    """
    file = read_sections(Path(path))
    meta: Mapping[str, Any] = file.meta
    try:
        kind = f"faiss:{meta['kind']}" if file.kind == "faiss" else file.kind
        graph, effort = meta.get("graph"), meta.get("effort")
        return IndexFile(
            kind=kind,
            codec=meta.get("codec", "float32"),
            rows=file.sizes["ids"] // 8,
            bytes=file.sizes,
            degree=None if graph is None else int(graph["degree"]),
            effort=None if effort is None else EffortCurve.read(effort),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} does not say what it holds: {error}", hint=REBUILD) from error
