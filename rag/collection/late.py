"""Late interaction over a collection: MaxSim of token vectors, candidates for it, and which words of a chunk matched.

The similarity of a query and a chunk is the sum, over the query's tokens, of the best dot product with a token of the
chunk (Khattab and Zaharia, SIGIR 2020, arXiv:2004.12832).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.collection.manifest import TokensRecord
from rag.collection.searching import Searching
from rag.collection.selection import grouped
from rag.collection.tokens import check_dim, chunks_without, score_tokens, search_tokens, with_tokens
from rag.collection.upgrading import upgrade_tokens
from rag.collection.writer import Writer
from rag.encoders import Encoder, MultiVectorEncoder, TokenVectors, encode_both_queries, load_multi_vector
from rag.errors import EncoderMismatchError, InputError
from rag.index import Matches
from rag.index.multivector import TokenCodec
from rag.index.neighbours import Progress
from rag.index.recommend import RECALL
from rag.types import Chunk, Hits

__all__ = ["CANDIDATES", "LateInteraction", "TokenMatch", "own_texts"]

CANDIDATES = 200
"""Chunks of a query that get to the last step, if nothing else is said: with MiniLM's tokens the 200 nearest by one
vector held all but 0.002 of the nDCG@10 of exhaustive search (SciFact, SQuAD)."""
ALL = 2
"""Where there are no more than so many times as many chunks as candidates, all are scored: nothing can be missed, and
it takes little longer."""

PRODUCTS = 1 << 22
"""Pairs of tokens that are compared at once for highlights: 16 MiB."""


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """A token of a query and the token of a chunk that fits it best: spans (start, end) in characters of each.

    `chunk` is None when that token stands in what was indexed above the chunk's text, such as its title.
    """

    query: tuple[int, int]
    chunk: tuple[int, int] | None
    score: float


class LateInteraction(Searching):
    """The side of a `rag.collection.Collection` that works on token vectors."""

    path: Path
    _token_encoder: MultiVectorEncoder | None

    @property
    @abstractmethod
    def encoder(self) -> Encoder: ...

    @abstractmethod
    def writer(self, *, wait: float = 0, progress: Progress | None = None) -> Writer: ...

    @property
    def has_tokens(self) -> bool:
        """Whether token vectors of all chunks are there, so that MaxSim can be asked for."""
        return self._open.manifest.tokens is not None and not chunks_without(self._open.segments())

    @property
    def token_encoder(self) -> MultiVectorEncoder:
        """The encoder of its token vectors, loaded at first use.

        CollectionError when it holds none, EncoderMismatchError when the encoder is not what made them.
        """
        record = self._token_record()
        # A collection that moves on to another generation may find other tokens there.
        if self._token_encoder is None or self._token_encoder.fingerprint != record.fingerprint:
            self._token_encoder = self._accepted(load_multi_vector(record.name, pool_factor=record.pool_factor))
        return self._token_encoder

    def _token_record(self) -> TokensRecord:
        return with_tokens(self.path, self._open.manifest.tokens, ())

    def _accepted(self, encoder: MultiVectorEncoder) -> MultiVectorEncoder:
        made_by = self._token_record()
        given = TokensRecord.of(encoder, made_by.codec)
        if (encoder.fingerprint, encoder.dim) != (made_by.fingerprint, made_by.dim):
            raise EncoderMismatchError(
                f"the token vectors of {self.path} were made by {made_by.described()}, but the encoder is "
                f"{given.described()}",
                hint=f"use {made_by.name!r} in the version that made them, or encode the chunks again: rag upgrade "
                f"{self.path} --multi-vector --token-encoder {encoder.name} --token-pool {encoder.pool_factor}",
            )
        return encoder

    # Searching

    def maxsim(self, queries: TokenVectors, ids: ArrayLike, *, threads: int = 0) -> NDArray[np.float32]:
        """The MaxSim float32[m, w] of query i with each of the chunks ids[i], int64[m, w].

        -inf where the id is -1, or that of no chunk with tokens; 0 for a query without any. CollectionError when not
        all chunks have their token vectors.
        """
        parts = self._open.segments()
        record = with_tokens(self.path, self._open.manifest.tokens, parts)
        check_dim(queries.vectors, record.dim)
        record.check(queries, self.path)
        asked = np.asarray(ids, np.int64)
        if asked.ndim != 2 or len(asked) != len(queries):
            raise InputError(f"candidates have shape {asked.shape}, expected a row for each of {len(queries)} queries")
        return score_tokens(parts, queries, asked, threads)

    def search_multi_vector(
        self,
        queries: Sequence[str] | TokenVectors,
        k: int,
        *,
        vectors: ArrayLike | None = None,
        filter: str | Sequence[str | None] | None = None,
        recall: float = RECALL,
        candidates: int = CANDIDATES,
        threads: int = 0,
    ) -> list[Hits]:
        """The k chunks with the highest MaxSim for each query, among those that pass the filter.

        The candidates nearest by single vectors (those of `search_dense`, with its `filter` and `recall`; as many as
        `candidates`, and k at least) are scored exactly. With recall 1, or up to twice as many chunks, all are.
        `vectors` float32[q, dim] are those of the queries if they are known; with TokenVectors as queries they are
        needed unless all chunks are scored. A query without tokens finds nothing.
        Raises CollectionError when not all chunks have their token vectors, and InputError.
        """
        snapshot = self._open
        parts = snapshot.segments()
        record = with_tokens(self.path, snapshot.manifest.tokens, parts)
        if k < 1 or candidates < 1:
            raise InputError(f"k is {k} and candidates {candidates}, expected at least 1 of each")
        if isinstance(queries, str):
            raise InputError("search_multi_vector takes a list of texts", hint=f"write [{queries[:40]!r}]")
        if isinstance(queries, TokenVectors):
            tokens = queries
        elif vectors is None:
            vectors, tokens = encode_both_queries(self.encoder, self.token_encoder, list(queries))
        else:
            tokens = self.token_encoder.encode_queries(list(queries))
        check_dim(tokens.vectors, record.dim)
        record.check(tokens, self.path)
        deep = max(k, candidates)

        def search(rows: NDArray[np.int64], where: str | None) -> list[Hits]:
            allowed = None if where is None else snapshot.select(where)
            asked = tokens if len(rows) == len(tokens) else _some(tokens, rows)
            count = snapshot.manifest.chunks if allowed is None else len(allowed.ids)
            if recall == 1 or count <= ALL * deep:
                return self._hits(search_tokens(parts, asked, k, allowed, threads))
            if vectors is None:
                raise InputError("there are too many chunks to score all", hint="pass vectors=, or texts as queries")
            single = np.atleast_2d(np.asarray(vectors, np.float32))[rows]
            near = self.search_dense(single, deep, filter=where, recall=recall, threads=threads)
            ids = np.full((len(rows), deep), -1, np.int64)
            for row, hits in zip(ids, near, strict=True):
                row[: len(hits)] = hits.ids
            return self._hits(_best(ids, score_tokens(parts, asked, ids, threads), asked, k))

        return grouped(filter, len(tokens), search)

    def highlights(
        self, query: str, ids: ArrayLike, *, texts: Callable[[Sequence[Chunk]], Sequence[str]] | None = None
    ) -> list[list[TokenMatch]]:
        """For each of these chunks (int64[n]), what each token of the query matched in it, in the order of the query.

        The chunks are encoded again, without pooling, since the places of tokens are not stored: `texts` says what was
        indexed for them, their own text by default. Tokens that stand for no word of the query are left out.
        """
        encoder = self.token_encoder
        chunks = self._open.chunks(np.asarray(ids, np.int64))
        indexed = list((texts or own_texts)(chunks))
        asked, stored = encoder.encode_queries([query]), encoder.encode_documents(indexed, pooled=False)
        words = np.flatnonzero(asked.spans[:, 1] > asked.spans[:, 0])
        found = []
        for number, (chunk, text) in enumerate(zip(chunks, indexed, strict=True)):
            own = slice(stored.offsets[number], stored.offsets[number + 1])
            spans = stored.spans[own] - (len(text) - len(chunk.text))  # what stands above its own text is before 0
            found.append(_matches(asked.vectors[words], asked.spans[words], stored.vectors[own], spans))
        return found

    # Changing

    def add_tokens(
        self,
        encoder: str | MultiVectorEncoder | None = None,
        *,
        pool_factor: int | None = None,
        codec: TokenCodec | None = None,
        texts: Callable[[Sequence[Chunk]], Sequence[str]] | None = None,
        wait: float = 0,
        progress: Progress | None = None,
    ) -> int:
        """Hold token vectors from now on, and encode the chunks that have none; returns how many segments these were.

        `encoder`: an encoder, or a name for `rag.encoders.load_multi_vector`; by default what made the tokens that are
        there, else the model that makes the collection's single vectors. `pool_factor` goes with a name, `codec` is
        that of `rag.index.multivector.TokenStore`; both stay as they are if left out, and are 1 and "int8" at first.
        Tokens of another encoder or factor are made again. `texts` says what was indexed for chunks, their own text by
        default. Each segment is a generation of its own: readers go on, nothing is lost whenever it is interrupted,
        and the next call goes on from there. Raises what `writer` raises.
        """
        known = self._open.manifest.tokens
        made_by = self._wanted(known, encoder, pool_factor)
        kept = codec or (None if known is None else known.codec)

        def encode(chunks: Sequence[Chunk]) -> TokenVectors:
            return made_by.encode_documents((texts or own_texts)(chunks))

        with self.writer(wait=wait, progress=progress) as writer:
            given = upgrade_tokens(writer, TokensRecord.of(made_by, kept), encode, progress)
        self._token_encoder = made_by
        return given

    def _wanted(
        self, known: TokensRecord | None, encoder: str | MultiVectorEncoder | None, pool_factor: int | None
    ) -> MultiVectorEncoder:
        """The encoder that is to make the tokens, where these are known ones or none."""
        if encoder is not None and not isinstance(encoder, str):
            if pool_factor not in (None, encoder.pool_factor):
                raise InputError(f"{encoder.name!r} pools by {encoder.pool_factor}, not by {pool_factor}")
            return encoder
        before = 1 if known is None else known.pool_factor
        if known is not None and encoder is None and pool_factor in (None, before):
            return self.token_encoder
        name = encoder or (self.encoder.name if known is None else known.name)
        return load_multi_vector(name, pool_factor=before if pool_factor is None else pool_factor)


def own_texts(chunks: Sequence[Chunk]) -> list[str]:
    """The texts of chunks as they are."""
    return [chunk.text for chunk in chunks]


def _some(queries: TokenVectors, rows: NDArray[np.int64]) -> TokenVectors:
    """Some of the queries."""
    counts = np.diff(queries.offsets)[rows]
    offsets = np.append(0, np.cumsum(counts))
    take = np.repeat(queries.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
    return TokenVectors(queries.vectors[take], offsets, queries.spans[take])


def _best(ids: NDArray[np.int64], scores: NDArray[np.float32], queries: TokenVectors, k: int) -> Matches:
    """The k best of the candidates, equals by id; none for queries without tokens."""
    scores = np.where(np.diff(queries.offsets)[:, None] > 0, scores, -np.inf)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    return Matches(np.where(np.isneginf(best), -1, np.take_along_axis(ids, order, axis=1)), best)


def _matches(
    query: NDArray[np.float32],
    query_spans: NDArray[np.int32],
    chunk: NDArray[np.float32],
    chunk_spans: NDArray[np.int32],
) -> list[TokenMatch]:
    """The best of a chunk's tokens for each of the query's."""
    if not len(chunk):
        return []
    matches = []
    some = max(PRODUCTS // len(chunk), 1)
    for first in range(0, len(query), some):
        likeness = query[first : first + some] @ chunk.T
        for (start, end), row in zip(query_spans[first : first + some].tolist(), likeness, strict=True):
            best = int(row.argmax())
            begin, stop = chunk_spans[best].tolist()
            matches.append(TokenMatch((start, end), (begin, stop) if 0 <= begin < stop else None, float(row[best])))
    return matches
