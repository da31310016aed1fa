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
from rag.index.multivector.learning import learned_form
from rag.index.neighbours import Progress

if TYPE_CHECKING:
    from rag.collection.manifest import TokensRecord
    from rag.collection.selection import Selection

__all__ = [
    "TokenPart",
    "TokenStorage",
    "add_tokens",
    "check_tokens",
    "chunks_without",
    "default_codec",
    "open_tokens",
    "score_tokens",
    "search_tokens",
    "with_tokens",
]

BATCH = 64
"""Chunks whose tokens are copied or decoded at once: some 25 MiB of 384 numbers a token."""
LEAST_LEARNED = 65_536
"""Tokens from which a codec learns; fewer are kept as float16. What it learns holds for all that come later: from the
first 8,192 tokens of squad, which are of one subject, sign codes lost 0.022 of nDCG@10, from 65,536 of them 0.002."""
SAMPLE = 65_536
"""Tokens, of chunks chosen by chance, from which a codec learns."""
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


def default_codec(dim: int) -> TokenCodec:
    """How tokens of so many numbers are kept if nothing is asked for, in 48 bytes or so: in the fewest bits a number at
    which ranking candidates again lost no more than 0.003 of nDCG@10 (docs/multivector.md)."""
    return "sign" if dim >= 256 else "residual2" if dim >= 128 else "residual4"


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
        return TokenStore(self.dim, self._first_codec(0))

    def suits(self, part: TokenPart) -> bool:
        """Whether the part has tokens, kept as this collection keeps so many."""
        return part.tokens is not None and part.tokens.codec in (self.codec, self._first_codec(part.tokens.tokens))

    def build(
        self, parts: Sequence[TokenPart], known: Sequence[TokenPart] = (), progress: Progress | None = None
    ) -> TokenStore | None:
        """The tokens of what is live in all parts together; None when one of them has none.

        A codec learns once: what the largest store has learned, of these parts or else of those `known`, holds for the
        result as well. So codes are copied where the codec stays what it is.
        """
        stores = [part.tokens for part in parts if part.tokens is not None]
        if len(stores) < len(parts):
            return None
        store = self._empty(parts, known)
        chunks, done = sum(len(part.live) for part in parts), 0
        for part, tokens in zip(parts, stores, strict=True):
            for ids in _batches(part):
                if progress is not None:
                    progress("merging token vectors", done, chunks)
                store.append(tokens, ids)
                done += len(ids)
        return store

    def _empty(self, parts: Sequence[TokenPart], known: Sequence[TokenPart]) -> TokenStore:
        """A store for these parts, which has learned what there is to learn."""
        taught = self._largest(parts) or self._largest(known)
        if taught is not None:
            return TokenStore.like(taught)
        total = sum(part.tokens.tokens for part in parts if part.tokens is not None)
        store = TokenStore(self.dim, self._first_codec(total))
        if learned_form(store.codec):
            store.learn(_sample(parts, total))
        return store

    def _largest(self, parts: Sequence[TokenPart]) -> TokenStore | None:
        """Of the stores of this codec."""
        stores = [part.tokens for part in parts if part.tokens is not None and part.tokens.codec == self.codec]
        return max(stores, key=lambda store: store.tokens, default=None)

    def _first_codec(self, tokens: int) -> TokenCodec:
        """Of a store of so many tokens, where there is none to learn from."""
        return "float16" if learned_form(self.codec) and tokens < LEAST_LEARNED else self.codec


def _sample(parts: Sequence[TokenPart], total: int) -> NDArray[np.float32]:
    """Tokens float32[t, dim] of chunks spread over all parts by chance, of at least one that has any."""
    ids = np.concatenate([batch for part in parts for batch in _batches(part)])
    chosen = np.random.default_rng(_SEED).permutation(ids)[: -(-SAMPLE * len(ids) // total)]
    return np.concatenate(
        [
            part.tokens.vectors(batch)[0]
            for part in parts
            if part.tokens is not None
            for batch in _batches(part, np.sort(chosen))
        ]
    )


def _batches(part: TokenPart, among: NDArray[np.int64] | None = None) -> Iterator[NDArray[np.int64]]:
    """Live chunks of a part that have tokens, or those of these, in order, some at a time."""
    if part.tokens is None:
        return
    ids = np.intersect1d(part.tokens.ids, part.live if among is None else np.intersect1d(part.live, among))
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]


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
