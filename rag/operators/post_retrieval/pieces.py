"""Contexts made of some of the sentences of others."""

from __future__ import annotations

from collections.abc import Collection as Members
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rag.operators.indexing import page_of, sentences
from rag.types import ChunkStore, Context, Passage

__all__ = ["Place", "places_of", "with_places"]

Place = tuple[int, int, int]
"""A sentence of a context: row of its passage, start and end in that passage's text."""


def places_of(context: Context) -> list[Place]:
    """All sentences, in the order of passages and text."""
    return [(row, a, b) for row, passage in enumerate(context) for a, b in sentences(passage.text)]


def with_places(
    context: Context, places: Sequence[Place], kept: Members[int], store: ChunkStore | None = None
) -> Context:
    """The context with only those sentences whose index is in `kept`; neighbours stay in one passage, spans exact.

    `places` are those of `places_of`. Passages are numbered anew; one of which nothing is kept counts as left out. The
    page of a piece from within a passage is looked up in `store`; without one it is not known, and not claimed.
    """
    runs: list[Place] = []
    before = -2
    for index, (row, start, end) in enumerate(places):
        if index not in kept:
            continue
        if before == index - 1 and runs[-1][0] == row:
            runs[-1] = (row, runs[-1][1], end)
        else:
            runs.append((row, start, end))
        before = index
    passages = [_part(context.passages[row], start, end, store) for row, start, end in runs]
    gone = len(context) - len({row for row, _, _ in runs})
    numbered = tuple(replace(p, number=n) for n, p in enumerate(passages, 1))
    return Context(numbered, context.left_out + gone)


def _part(passage: Passage, start: int, end: int, store: ChunkStore | None) -> Passage:
    """Characters `start` to `end` of a passage's text, as a passage."""
    at = passage.start + start
    metadata = dict(passage.metadata)
    if start and metadata.pop("page", None) is not None and store is not None:
        page = page_of(store.chunks(np.array([passage.chunk]))[0].metadata, at)
        if page is not None:
            metadata["page"] = page
    return replace(
        passage,
        text=passage.text[start:end],
        start=at,
        end=passage.start + end,
        line=passage.line + passage.text.count("\n", 0, start),
        metadata=metadata,
        shown=None,
    )
