"""Which segments a generation has: those of the one before, with what is new and deleted, merged now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.collection.manifest import SegmentRecord
from rag.collection.segments import NONE, Part, between, write_tombstones
from rag.collection.snapshot import Snapshot
from rag.collection.storage import MOST_DELETED, Storage
from rag.collection.tokens import TokenStorage
from rag.index.lexical import merge_lexical
from rag.index.neighbours import Progress

__all__ = ["Plan", "merged", "next_segments", "plan"]

MOST_SEGMENTS = 8

Plan: TypeAlias = Callable[[Sequence[int], Sequence[int]], list[tuple[int, int]]]
"""From the chunks of segments, and how many of each are deleted, the half-open ranges to write anew as one."""


def next_segments(
    base: Snapshot,
    new: Part | None,
    dead: NDArray[np.int64],
    planned: Plan,
    numbers: Iterator[int],
    progress: Progress | None,
) -> list[SegmentRecord]:
    """Write what the segments after `base` need: with a new part, without the dead chunks (sorted ids), merged as
    `planned`. `numbers` are those of new files; the caller syncs the folder."""
    manifest = base.manifest
    parts: list[Part] = list(base.segments())
    deleted = [np.union1d(part.deleted, between(dead, part)) for part in parts]
    if new is not None:
        parts.append(new)
        deleted.append(NONE)
    sizes = [len(part.ids) for part in parts]
    counts = [len(ids) for ids in deleted]
    runs = dict(alike(planned(sizes, counts), [part.tokens is not None for part in parts]))

    records: list[SegmentRecord] = []
    at = 0
    while at < len(parts):
        end = runs.get(at, at + 1)
        run = [replace(p, deleted=d) for p, d in zip(parts[at:end], deleted[at:end], strict=True)]
        stored = manifest.segments[at] if at < len(manifest.segments) else None
        if not any(len(part.deleted) < len(part.ids) for part in run):
            pass  # nothing is left of it
        elif at in runs or stored is None:
            whole = merged(run, manifest.storage, manifest.token_storage, parts, progress)
            records.append(whole.write(base.folder, next(numbers)))
        elif len(run[0].deleted) > stored.deleted:
            tombstones = write_tombstones(base.folder, next(numbers), run[0].deleted)
            records.append(stored.model_copy(update={"deleted": len(run[0].deleted), "tombstones": tombstones}))
        else:
            records.append(stored)
        at = end
    return records


def merged(
    parts: Sequence[Part],
    storage: Storage,
    token_storage: TokenStorage | None = None,
    known: Sequence[Part] = (),
    progress: Progress | None = None,
) -> Part:
    """One part that holds what is live in these: token vectors only where all of them have some, coded like those of
    the parts that are `known`."""
    vectors = storage.build(parts, progress)
    tokens = None if token_storage is None else token_storage.build(parts, known, progress)
    deleted = np.unique(np.concatenate([part.deleted for part in parts]))
    same = len(parts) == 1 and not len(deleted)
    postings = parts[0].postings if same else merge_lexical([part.postings for part in parts], deleted)
    return Part(vectors, postings, NONE, tokens=tokens)


def plan(chunks: Sequence[int], deleted: Sequence[int]) -> list[tuple[int, int]]:
    """Which neighbouring segments to write anew as one: half-open ranges, in order, that do not overlap.

    With more than 8 segments, the last ones are merged, from the first that is no larger than all after it together:
    so a chunk is rewritten only when its segment at least doubles, a logarithmic number of times in all (the
    logarithmic method of Bentley and Saxe 1980). A segment of which more than a quarter is deleted is rewritten.
    """
    live = [n - d for n, d in zip(chunks, deleted, strict=True)]
    tail = len(live)
    if len(live) > MOST_SEGMENTS:
        tail = next((i for i in range(len(live) - 1) if live[i] <= sum(live[i + 1 :])), tail)
    alone = [(i, i + 1) for i in range(tail) if deleted[i] > MOST_DELETED * chunks[i]]
    return alone + ([(tail, len(live))] if tail < len(live) else [])


def alike(ranges: Sequence[tuple[int, int]], kinds: Sequence[bool]) -> list[tuple[int, int]]:
    """These ranges, cut where the kind changes; what is then alone and was not before is left out.

    So segments that have token vectors are not merged with those that an upgrade has not reached yet.
    """
    cut = []
    for begin, end in ranges:
        edges = [begin, *(at for at in range(begin + 1, end) if kinds[at] != kinds[at - 1]), end]
        cut += [(a, b) for a, b in pairwise(edges) if b - a > 1 or end - begin == 1]
    return cut
