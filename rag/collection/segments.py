"""Segments: the vectors and postings that one commit wrote together, and when to merge them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.collection.files import REBUILD, FileRecord, read_checked, record, write_new
from rag.collection.manifest import SegmentRecord
from rag.collection.selection import Selection
from rag.collection.storage import MOST_DELETED, Storage, StoredIndex, open_vectors
from rag.collection.tokens import TokenStorage, open_tokens
from rag.errors import DamagedFileError, NotFoundError
from rag.index import GraphIndex, Matches, ScanIndex, merge_matches
from rag.index.lexical import LexicalIndex, merge_lexical, search_lexical
from rag.index.multivector import TokenStore
from rag.index.neighbours import Progress
from rag.index.opening import IndexFile, describe

__all__ = [
    "NONE",
    "Part",
    "Segment",
    "alike",
    "between",
    "merged",
    "plan",
    "search_postings",
    "search_vectors",
    "vectors_of",
    "write_tombstones",
]

NONE: NDArray[np.int64] = np.empty(0, np.int64)

MOST_SEGMENTS = 8


@dataclass(frozen=True, eq=False)
class Part:
    """Vectors, postings and perhaps token vectors over the same chunk ids, and the ids (sorted) deleted from them."""

    vectors: StoredIndex
    postings: LexicalIndex
    deleted: NDArray[np.int64]
    file: Path | None = None
    """Of the vectors, when it is on disk."""
    tokens: TokenStore | None = None
    tokens_file: Path | None = None
    """Of the token vectors, when it is on disk."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """int64[n], ascending, deleted ones included."""
        return self.postings.ids

    @property
    def live(self) -> NDArray[np.int64]:
        """int64[n], ascending, without the deleted ones."""
        return self.ids[~np.isin(self.ids, self.deleted)]

    def write(self, folder: Path, number: int) -> SegmentRecord:
        """Save it as new files, for a part without deleted ids; to the disk, as the indexes do when they save."""
        stem = f"segments/{number:08d}"
        self.vectors.save(folder / f"{stem}.vectors")
        self.postings.save(folder / f"{stem}.postings")
        if self.tokens is not None:
            self.tokens.save(folder / f"{stem}.tokens")
        return SegmentRecord(
            first=int(self.ids[0]),
            last=int(self.ids[-1]),
            chunks=len(self.ids),
            deleted=0,
            vectors=record(folder, f"{stem}.vectors"),
            postings=record(folder, f"{stem}.postings"),
            tombstones=None,
            tokens=None if self.tokens is None else record(folder, f"{stem}.tokens"),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Segment(Part):
    """A part that is on disk."""

    record: SegmentRecord
    index: IndexFile

    @classmethod
    def open(cls, folder: Path, stored: SegmentRecord, engine: str | None, known: Sequence[Segment] = ()) -> Segment:
        """Open and check the files of a segment, or take over what one of `known` has open already."""
        for segment in known:
            if segment.record == stored:
                return segment
        deleted = NONE
        if stored.tombstones is not None:
            deleted = np.frombuffer(read_checked(folder, stored.tombstones), "<i8").astype(np.int64)
        path = stored.vectors.check_size(folder)
        same = next((segment for segment in known if segment.record.postings == stored.postings), None)
        postings = LexicalIndex.open(stored.postings.check_size(folder)) if same is None else same.postings
        vectors = open_vectors(engine, path, deleted)
        for file, found in ((stored.vectors, len(vectors) + len(deleted)), (stored.postings, len(postings))):
            if found != stored.chunks or len(deleted) != stored.deleted:
                raise DamagedFileError(f"{folder / file.name} holds {found} chunks, not {stored.chunks}")
        tokens = tokens_file = None
        if stored.tokens is not None:
            tokens_file = stored.tokens.check_size(folder)
            tokens = open_tokens(tokens_file, deleted)
            if not np.isin(tokens.ids, postings.ids).all():
                raise DamagedFileError(f"{tokens_file} holds the tokens of other chunks", hint=REBUILD)
        return cls(vectors, postings, deleted, path, tokens, tokens_file, record=stored, index=describe(path))


def write_tombstones(folder: Path, number: int, deleted: NDArray[np.int64]) -> FileRecord:
    """Save which ids (sorted) of a segment are deleted; the caller syncs the folder."""
    name = f"segments/{number:08d}.deleted"
    write_new(folder / name, deleted.astype("<i8").tobytes())
    return record(folder, name)


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


def between(ids: NDArray[np.int64], part: Part) -> NDArray[np.int64]:
    """Those of `ids` (sorted) that lie where the part's do; parts do not overlap."""
    begin, end = np.searchsorted(ids, [part.ids[0], part.ids[-1] + 1])
    return ids[begin:end]


def vectors_of(parts: Sequence[Part], ids: NDArray[np.int64], dim: int) -> NDArray[np.float32]:
    """The vectors float32[n, dim] of these ids; NotFoundError."""
    out = np.empty((len(ids), dim), np.float32)
    found = np.zeros(len(ids), bool)
    for part in parts:
        own = np.flatnonzero(np.isin(ids, part.ids) & ~np.isin(ids, part.deleted))
        if len(own):
            out[own] = part.vectors.vectors(ids[own])
            found[own] = True
    if not found.all():
        raise NotFoundError(f"there is no chunk {ids[~found][0]}")
    return out


def search_vectors(
    parts: Sequence[Part],
    queries: NDArray[np.float32],
    k: int,
    allowed: Selection | None,
    recall: float,
    threads: int,
) -> Matches:
    """The k nearest of all parts together, or of what is allowed, with this recall where a part is not just scanned."""
    found = []
    for part in parts:
        own = None
        if allowed is not None:
            own = allowed.within(part)
            if not len(own):
                continue
        index = part.vectors
        if isinstance(index, GraphIndex):
            found.append(index.search(queries, k, filter=own, recall=recall, threads=threads))
        elif isinstance(index, ScanIndex):
            deep = max(len(index), k) if recall == 1 else 0
            found.append(index.search(queries, k, filter=own, rerank=deep, threads=threads))
        else:
            found.append(index.search(queries, k, filter=own, threads=threads))
    if not found:
        rows = len(queries)
        return Matches(np.full((rows, k), -1, np.int64), np.full((rows, k), -np.inf, np.float32))
    return merge_matches(found, k)


def search_postings(
    parts: Sequence[Part],
    queries: Sequence[str],
    k: int,
    allowed: NDArray[np.int64] | None,
    k1: float,
    b: float,
    threads: int,
) -> Matches:
    """The k best by BM25 of all parts together."""
    deleted = np.concatenate([NONE, *(part.deleted for part in parts)])
    return search_lexical(
        [part.postings for part in parts], queries, k, filter=allowed, deleted=deleted, k1=k1, b=b, threads=threads
    )
