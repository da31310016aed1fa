"""Token vectors of chunks: a store for each segment, how these are merged, and MaxSim across them.

A chunk whose text has no tokens is in no store, and is never found by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from rag.encoders import TokenVectors
from rag.errors import CollectionError, InputError
from rag.index import Matches, merge_matches
from rag.index.multivector import TokenCodec, TokenStore
from rag.index.multivector.learning import learns_tokens
from rag.index.neighbours import Progress

if TYPE_CHECKING:
    from rag.collection.manifest import TokensRecord
    from rag.collection.selection import Selection

__all__ = [
    "CODEC",
    "TokenPart",
    "TokenStorage",
    "add_tokens",
    "check_tokens",
    "chunks_without",
    "open_tokens",
    "score_tokens",
    "search_tokens",
    "with_tokens",
]

BATCH = 64
"""Chunks whose tokens are decoded at once when segments are merged: some 25 MiB of 384 numbers a token."""
CODEC: TokenCodec = "int8"
"""If none is asked for: half the bytes of float16, and the same ranking."""
LEAST_LEARNED = 8192
"""Tokens from which a codec learns all of its centroids; fewer are kept as float16."""
SAMPLE = 65_536
"""Tokens, of chunks chosen by chance, from which a codec learns."""
LEAST_KEPT = 0.25
"""Share of all tokens that a store must hold already to be extended: what its codec has learned should fit them."""
_SEED = 20260211


class TokenPart(Protocol):
    """What is used here of a part."""

    @property
    def ids(self) -> NDArray[np.int64]: ...

    @property
    def live(self) -> NDArray[np.int64]:
        """Ascending."""
        ...

    @property
    def tokens(self) -> TokenStore | None: ...

    @property
    def tokens_file(self) -> Path | None: ...


# Storing


def check_tokens(folder: Path, record: TokensRecord | None, tokens: TokenVectors | None, chunks: int) -> None:
    """InputError unless there are tokens of so many chunks, or none where the collection holds none."""
    if record is None:
        if tokens is not None:
            raise InputError(
                f"{folder} holds no token vectors, so it takes none",
                hint=f"rag upgrade {folder} --multi-vector, or Collection.create(..., tokens=encoder)",
            )
        return
    if tokens is None and not chunks:
        return
    if tokens is None:
        raise InputError(
            f"{folder} holds token vectors of {record.name!r}, and these chunks come without",
            hint="pass tokens=collection.token_encoder.encode_documents(texts)",
        )
    if len(tokens) != chunks:
        raise InputError(f"token vectors of {len(tokens)} texts for {chunks} chunks")
    check_dim(tokens.vectors, record.dim)


def check_dim(vectors: NDArray[np.float32], dim: int) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise InputError(f"the token vectors have shape {vectors.shape}, this collection needs [tokens, {dim}]")


def open_tokens(path: Path, deleted: NDArray[np.int64]) -> TokenStore:
    """The store in a file of a segment, checked, without the deleted ids."""
    store = TokenStore.open(path)
    store.delete(deleted)
    return store


def add_tokens(store: TokenStore, ids: NDArray[np.int64], tokens: TokenVectors) -> None:
    """Add the tokens of these chunks, as far as they have any."""
    some = np.flatnonzero(np.diff(tokens.offsets))
    if len(some):
        # An empty text takes no place between the others, so the rest of the offsets are theirs.
        store.add(ids[some], tokens.vectors, np.append(tokens.offsets[some], tokens.offsets[-1]))


@dataclass(frozen=True)
class TokenStorage:
    """How a collection keeps token vectors: in its codec, or as float16 where there are too few to learn from."""

    dim: int
    codec: TokenCodec

    def buffer(self) -> TokenStore:
        """An empty store for tokens that arrive."""
        return TokenStore(self.dim, self._form(0))

    def suits(self, part: TokenPart) -> bool:
        """Whether the part has tokens, kept as they would be if they were written now."""
        return part.tokens is not None and part.tokens.codec == self._form(part.tokens.tokens)

    def _form(self, tokens: int) -> TokenCodec:
        return "float16" if learns_tokens(self.codec) and tokens < LEAST_LEARNED else self.codec

    def build(self, parts: Sequence[TokenPart], progress: Progress | None = None) -> TokenStore | None:
        """The tokens of what is live in all parts together; None when one of them has none.

        The largest store is extended by the others where it may, so that its codes stay what they are.
        """
        stores = [part.tokens for part in parts if part.tokens is not None]
        if len(stores) < len(parts):
            return None
        largest = max(parts, key=lambda part: part.tokens.tokens if part.tokens is not None else 0)
        if len(parts) == 1 and largest.tokens_file is None and self.suits(largest) and not len(_dead(largest)):
            return largest.tokens
        total = sum(store.tokens for store in stores)
        store = self._extended(largest, total)
        others = [part for part in parts if store is None or part is not largest]
        if store is None:
            store = TokenStore(self.dim, self._form(total))
            if learns_tokens(store.codec):
                store.learn(self._sample(parts, total))
        chunks, done = sum(len(part.live) for part in others), 0
        for part in others:
            for ids, vectors, offsets in _decoded(part):
                if progress is not None:
                    progress("merging token vectors", done, chunks)
                store.add(ids, vectors, offsets)
                done += len(ids)
        return store

    def _extended(self, largest: TokenPart, total: int) -> TokenStore | None:
        """The store of a part without what is deleted, as one of our own, if others may be added to it."""
        if largest.tokens_file is None or largest.tokens is None or not self.suits(largest):
            return None
        if largest.tokens.tokens < LEAST_KEPT * total or largest.tokens.codec != self._form(total):
            return None
        store = open_tokens(largest.tokens_file, _dead(largest))
        store.compact()
        return store

    def _sample(self, parts: Sequence[TokenPart], total: int) -> NDArray[np.float32]:
        """Tokens float32[t, dim] of chunks spread over all parts by chance."""
        ids = np.concatenate([part.live for part in parts])
        count = -(-SAMPLE * len(ids) // total)
        chosen = np.sort(np.random.default_rng(_SEED).permutation(ids)[:count])
        return np.concatenate([vectors for part in parts for _, vectors, _ in _decoded(part, chosen)])


def _dead(part: TokenPart) -> NDArray[np.int64]:
    """Chunks in the store of a part that are not live."""
    return np.empty(0, np.int64) if part.tokens is None else np.setdiff1d(part.tokens.ids, part.live)


def _decoded(
    part: TokenPart, among: NDArray[np.int64] | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]]:
    """The live chunks of a part that have tokens, or those of these (sorted) ids, batch by batch: their ids, their
    tokens, and the offsets of these."""
    if part.tokens is None:
        return
    ids = np.intersect1d(part.tokens.ids, part.live, assume_unique=True)
    if among is not None:
        ids = np.intersect1d(ids, among, assume_unique=True)
    for start in range(0, len(ids), BATCH):
        own = ids[start : start + BATCH]
        yield own, *part.tokens.vectors(own)


# Searching


def with_tokens(folder: Path, record: TokensRecord | None, parts: Sequence[TokenPart]) -> TokensRecord:
    """The record of a collection of which all chunks have their tokens; CollectionError otherwise."""
    hint = f"rag upgrade {folder} --multi-vector"
    if record is None:
        raise CollectionError(f"{folder} holds no token vectors", hint=hint)
    if missing := chunks_without(parts):
        total = missing + sum(len(part.live) for part in parts if part.tokens is not None)
        raise CollectionError(
            f"{missing} of {total} chunks of {folder} have no token vectors yet: an upgrade was not finished",
            hint=f"{hint} goes on where it was",
        )
    return record


def chunks_without(parts: Sequence[TokenPart]) -> int:
    """How many live chunks are in parts that have no token vectors."""
    return sum(len(part.live) for part in parts if part.tokens is None)


def search_tokens(
    parts: Sequence[TokenPart], queries: TokenVectors, k: int, allowed: Selection | None, threads: int
) -> Matches:
    """The k chunks with the best MaxSim of all, or of what is allowed; nothing for a query without tokens."""
    some, asked = _asked(queries)
    found = Matches(np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32))
    own = []
    for part in parts:
        filter = None if allowed is None else allowed.within(part)
        if part.tokens is not None and len(part.tokens) and (filter is None or len(filter)) and len(some):
            own.append(part.tokens.maxsim(asked.vectors, asked.offsets, k, filter=filter, threads=threads))
    if own:
        best = merge_matches(own, k)
        found.ids[some], found.scores[some] = best.ids, best.scores
    return found


def score_tokens(
    parts: Sequence[TokenPart], queries: TokenVectors, ids: NDArray[np.int64], threads: int
) -> NDArray[np.float32]:
    """The MaxSim float32[m, w] of query i with each of ids[i] (-1: none), -inf for chunks without tokens."""
    scores = np.full(ids.shape, -np.inf, np.float32)
    some, asked = _asked(queries)
    if not len(some) or not ids.size:
        scores[ids >= 0] = 0
        return scores
    rows = ids[some]
    best = np.full(rows.shape, -np.inf, np.float32)
    for part in parts:
        if part.tokens is None or not len(part.tokens) or not len(part.ids):
            continue
        here = (rows >= part.ids[0]) & (rows <= part.ids[-1])
        width = int(here.sum(axis=1).max())
        if width:
            own = np.where(here, rows, -1)
            found = part.tokens.maxsim(asked.vectors, asked.offsets, width, candidates=own, threads=threads)
            for row, matched, values in zip(range(len(rows)), found.ids, found.scores, strict=True):
                order = np.argsort(matched)
                at = np.minimum(np.searchsorted(matched, rows[row], sorter=order), len(matched) - 1)
                hit = here[row] & (matched[order[at]] == rows[row])
                best[row, hit] = values[order[at]][hit]
    scores[some] = best
    empty = np.setdiff1d(np.arange(len(ids)), some)
    scores[empty] = np.where(ids[empty] >= 0, 0, -np.inf)
    return scores


def _asked(queries: TokenVectors) -> tuple[NDArray[np.int64], TokenVectors]:
    """The queries that have tokens: which they are, and they alone."""
    some = np.flatnonzero(np.diff(queries.offsets))
    if len(some) == len(queries):
        return some, queries
    return some, TokenVectors(queries.vectors, np.append(queries.offsets[some], len(queries.vectors)), queries.spans)
