"""Token vectors of documents, and the exact score of late interaction over them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, NoReturn, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rag import _native
from rag.errors import DamagedFileError, InputError, did_you_mean
from rag.index.files import REBUILD, SectionFile, read_sections, write_sections
from rag.index.filter import IdFilter, allowed_ids
from rag.index.inputs import as_ids, as_vectors, check_count, check_k
from rag.index.multivector.learning import LearnedTokens, learn_tokens, learned_form
from rag.index.protocol import Matches

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TOKEN_CODECS", "TokenCodec", "TokenMatches", "TokenStats", "TokenStore"]

TokenCodec: TypeAlias = Literal["float32", "float16", "int8", "residual4", "residual2", "sign"]
"""How token vectors are stored, in one copy; bytes a token at 128 / 384 numbers:

- float32 (512 / 1536), float16 (256 / 768): as they are.
- int8 (136 / 392): a byte a number, with a scale for each token.
- residual4 (66 / 194), residual2 (34 / 98): which of 256 learned centroids is nearest, and 4 or 2 bits for each number
  of what is left of it after a random rotation (ColBERTv2: Santhanam et al., NAACL 2022; RaBitQ: Gao and Long, SIGMOD
  2024).
- sign (16 / 48): a bit for each number of what is beside the mean, whitened and rotated. Its scores are estimates of
  inner products, by a line that was learned with it; they are made for order rather than for likeness, so they are not
  the inner products with what `TokenStore.vectors` makes of the bits."""

TOKEN_CODECS: tuple[TokenCodec, ...] = get_args(TokenCodec)

MAX_DIM = 65536
MOST_ROWS = 1 << 40


class TokenMatches(NamedTuple):
    """What each token of a query matched best in a document."""

    positions: NDArray[np.int64]
    """int64[q]: the number of the document's token"""
    scores: NDArray[np.float32]
    """float32[q]: the inner product with it"""


@dataclass(frozen=True, slots=True)
class TokenStats:
    """What a store holds: `documents` and `tokens` that can be found, `tombstones` left by deletions (documents), and
    `bytes` by part."""

    documents: int
    tokens: int
    tombstones: int
    dim: int
    codec: TokenCodec
    bytes: Mapping[str, int]


class TokenStore:
    """Token vectors of documents under ids, in one codec, in memory or mapped from a file.

    Tokens of documents are stored at unit length; those of queries are taken as they are, so that a token's length is
    its weight (unit vectors: all count alike). Ragged sets are two arrays: tokens float32[t, dim] and offsets
    int64[n + 1]; set i has the tokens offsets[i] to offsets[i + 1].
    Residual and sign codes learn from the first tokens that are added, or from what `learn` is given before. Scores are
    those of the stored numbers, up to the rounding of queries to 8 bits (int8, residual and sign codes); those of sign
    codes are estimates (see `TokenCodec`).
    Safe to use from several threads; searches run side by side, and beside an `add`.
    """

    kind: ClassVar[str] = "tokens"
    """Of the store, in its files."""

    def __init__(self, dim: int, codec: TokenCodec = "float16") -> None:
        if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or not 1 <= dim <= MAX_DIM:
            raise InputError(f"dim is {dim!r}, expected a whole number from 1 to {MAX_DIM}")
        if codec not in TOKEN_CODECS:
            raise InputError(f"there is no token codec {codec!r}", hint=did_you_mean(str(codec), TOKEN_CODECS))
        self._codec: TokenCodec = codec
        self._learned: LearnedTokens | None = None
        self._file: SectionFile | None = None  # what it was opened from, until all of that is checked
        self._writing = threading.Lock()  # a save sees no half of an add
        self._store = _native.TokenStore(int(dim), codec)

    @classmethod
    def like(cls, other: TokenStore) -> Self:
        """An empty store of the same codec, which has learned the same: `append` copies codes between them."""
        store = cls(other.dim, other.codec)
        if other._learned is not None:
            store._take_over(other._learned)
        return store

    @property
    def dim(self) -> int:
        """Numbers a token."""
        return self._store.dim

    @property
    def codec(self) -> TokenCodec:
        """How tokens are stored."""
        return self._codec

    @property
    def tokens(self) -> int:
        """Token vectors that can be found."""
        return self._store.live_tokens

    @property
    def ids(self) -> NDArray[np.int64]:
        """Of the documents that can be found, int64[n], in the order in which they were added."""
        with self._writing:
            parts = self._store.parts()
            ids: NDArray[np.int64] = np.concatenate(parts["ids"]).view(np.int64)
            words = np.concatenate(parts["tombstones"])
            live: NDArray[np.bool_] = np.unpackbits(words, count=len(ids), bitorder="little") == 0
            return np.asarray(ids[live], np.int64)

    def __len__(self) -> int:
        """Documents that can be found."""
        return self._store.live

    def __repr__(self) -> str:
        return f"TokenStore(dim={self.dim}, codec={self.codec!r}, documents={len(self)}, tokens={self.tokens})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TokenStore cannot be pickled; use save(path), and TokenStore.open(path) in the other one")

    def add(self, ids: NDArray[np.int64], tokens: NDArray[np.float32], offsets: NDArray[np.int64]) -> None:
        """Add documents under new ids int64[n] (each >= 0); the id of a deleted document is new again.

        `tokens` float32[t, dim] of any length but zero, `offsets` int64[n + 1]; each document has a token at least.
        Raises InputError, and adds nothing, for NaN or infinity, a wrong dimension, offsets that do not fit, a document
        without tokens, a token of zeros, or an id that is there already or given twice.
        """
        arguments = as_ids(ids), as_vectors(tokens, self.dim, "tokens"), as_ids(offsets, "offsets")
        with self._writing:
            if self._learned is None and learned_form(self.codec) and _usable(arguments[1]):
                self._take_over(learn_tokens(self.codec, arguments[1]))
            self._store.add(*arguments)

    def append(self, other: TokenStore, ids: NDArray[np.int64]) -> None:
        """Add documents of another store, under the ids int64[n] that they have there.

        Their codes are copied where both stores keep tokens alike (`like`); else they are decoded and coded anew, which
        loses something with every codec but float32. Raises NotFoundError, and adds nothing, for an id that is not
        there; InputError and DamagedFileError as `add` and `maxsim` do.
        """
        own = as_ids(ids)
        if other.dim == self.dim and other.codec == self.codec and _same(other._learned, self._learned):
            with self._writing:
                self._store.append(other._checked(), own)
        else:
            self.add(own, *other.vectors(own))

    def learn(self, tokens: NDArray[np.float32]) -> None:
        """Let the codec learn from tokens float32[t, dim], before any are added.

        Worth calling when the first tokens to be added are few or unlike the rest. Codecs that learn nothing pass over
        it. Raises InputError once there are tokens, and for NaN, infinity or a token of zeros.
        """
        matrix = as_vectors(tokens, self.dim, "tokens")
        if not _usable(matrix):
            raise InputError("tokens to learn from must be finite, not all zeros, and one at least")
        with self._writing:
            if self._store.rows:
                raise InputError("the store holds tokens already", hint="learn first, then add")
            if learned_form(self.codec):
                self._take_over(learn_tokens(self.codec, matrix))

    def _take_over(self, learned: LearnedTokens) -> None:
        self._learned = learned
        self._store = _native.TokenStore(self.dim, self.codec, **learned._asdict())

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Remove these documents (int64[n]); ids that are not there are passed over. Returns how many were there."""
        with self._writing:
            return self._store.remove(as_ids(ids))

    def compact(self) -> None:
        """Give back the room of deleted documents. The store is then in memory, also if it was mapped from a file."""
        with self._writing:
            self._checked().compact()

    def vectors(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The stored tokens float32[t, dim] of these documents and their offsets int64[n + 1].

        Raises NotFoundError for an id that is not there; DamagedFileError, as `maxsim` does.
        """
        tokens, offsets = self._checked().vectors(as_ids(ids))
        return tokens, offsets.reshape(-1)

    def maxsim(
        self,
        tokens: NDArray[np.float32],
        offsets: NDArray[np.int64],
        k: int,
        *,
        candidates: NDArray[np.int64] | None = None,
        filter: IdFilter | NDArray[np.int64] | None = None,
        threads: int = 0,
    ) -> Matches:
        """The k best documents for each query: ids int64[m, k] and scores float32[m, k], best first.

        A score is the sum, over the tokens of a query (`tokens` float32[q, dim], `offsets` int64[m + 1]), of the best
        inner product with a token of the document (Khattab and Zaharia, SIGIR 2020, section 3). Scored are all
        documents, or the `candidates` of each query (ids int64[m, w]; -1, unknown and repeated ones are passed over),
        and of these only such as pass the `filter` (sorted unique ids). Ties go to the smaller id.
        `threads` 0 means all cores. The result depends neither on the number of threads nor on the other queries.
        Raises InputError for NaN or infinity, a wrong dimension, offsets that do not fit, a query without tokens, and
        DamagedFileError when the file it was opened from is damaged: the first search checks what `open` did not.
        """
        matrix, bounds = as_vectors(tokens, self.dim, "query tokens"), as_ids(offsets, "query offsets")
        if not len(bounds):
            raise InputError("query offsets are empty", hint="of m queries there are m + 1")
        among = None if candidates is None else _as_candidates(candidates, len(bounds) - 1)
        allowed = allowed_ids(filter)
        count = check_count(threads, "threads")
        return Matches(*self._checked().maxsim(matrix, bounds, check_k(k), among, allowed, count))

    def matches(self, id: int, tokens: NDArray[np.float32]) -> TokenMatches:
        """Which token of a document each token of a query (float32[q, dim]) fits best, and how well.

        Among equals it is the first. Raises NotFoundError for an id that is not there, InputError as `maxsim` does.
        """
        best, scores = self._checked().matches(int(id), as_vectors(tokens, self.dim, "query tokens"))
        return TokenMatches(best.reshape(-1), scores.reshape(-1))

    def stats(self) -> TokenStats:
        """Counts and bytes by part."""
        with self._writing:
            store = self._store
            documents, live = store.documents, store.live
            sizes = store.part_sizes(documents, store.rows)
            return TokenStats(live, store.live_tokens, documents - live, self.dim, self.codec, sizes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the store to a file, which is there completely or not at all; searches go on meanwhile.

        Raises CollectionError when it cannot be written; DamagedFileError, as `maxsim` does, rather than copy damage.
        """
        with self._writing:
            meta, sections = self._content()
            write_sections(Path(path), self.kind, meta, sections)

    def _content(self) -> tuple[dict[str, Any], dict[str, list[NDArray[np.uint8]]]]:
        """What a file of the store holds: its description, and sections in pieces."""
        store = self._checked()
        meta: dict[str, Any] = {"dim": self.dim, "codec": self.codec}
        meta |= {"documents": store.documents, "tokens": store.rows}
        sections = store.parts()
        if self._learned is not None:
            learned = self._learned._asdict()
            arrays = self._learned.shapes(self.dim)
            meta["learned"] = {name: value for name, value in learned.items() if name not in arrays}
            sections |= {name: [learned[name].reshape(-1).view(np.uint8)] for name in arrays}
        return meta, sections

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Map a saved store into memory. Changing it does not touch the file.

        What is small is checked at once, the tokens before they are first read; that reads all of them once, on all
        cores. Raises NotFoundError, DamagedFileError (naming the section), or CollectionError for a version from the
        future.
        """
        file = read_sections(Path(path), cls.kind)
        try:
            store = cls(file.meta["dim"], file.meta["codec"])
            store._attach(file)
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise DamagedFileError(f"{path} holds no tokens that can be read: {error}", hint=REBUILD) from error
        return store

    def _attach(self, file: SectionFile) -> None:
        """Take over what a file holds."""
        documents, tokens = _count(file.meta, "documents"), _count(file.meta, "tokens")
        form = learned_form(self.codec)
        if form is not None and "learned" in file.meta:
            learned: dict[str, Any] = {name: _floats(file, name, of) for name, of in form.shapes(self.dim).items()}
            learned |= {name: float(file.meta["learned"][name]) for name in form._fields if name not in learned}
            self._take_over(form(**learned))
        elif form is not None and tokens:
            raise InputError("it does not say what the codec learned")
        sizes = self._store.part_sizes(documents, tokens)
        parts = {name: file.unchecked(name) for name in sizes}
        for name, size in sizes.items():
            if len(parts[name]) != size:
                raise InputError(f"section {name!r} is {len(parts[name])} bytes long, not {size}")
        # These are read when they are attached.
        ids, tombstones = file.section("ids").view(np.int64), file.section("tombstones").view(np.uint64)
        file.section("ends")
        if documents and ids.min() < 0:
            raise InputError("section 'ids' holds a negative id")
        if documents % 64 and int(tombstones[-1]) >> documents % 64:
            raise InputError("section 'tombstones' marks documents that are not there")
        self._store.attach(documents, tokens, parts)
        self._file = file

    def _checked(self) -> _native.TokenStore:
        """The store, once all of the file that it was opened from is checked."""
        if (file := self._file) is not None:
            file.check()
            self._file = None
        return self._store


def _usable(tokens: NDArray[np.float32]) -> bool:
    return len(tokens) > 0 and bool(np.isfinite(tokens).all() and tokens.any(axis=1).all())


def _same(one: LearnedTokens | None, other: LearnedTokens | None) -> bool:
    if one is other or one is None or other is None:
        return one is other
    return all(map(np.array_equal, tuple[Any, ...](one), tuple[Any, ...](other)))


def _count(meta: Mapping[str, Any], name: str) -> int:
    value = meta[name]
    if type(value) is not int or not 0 <= value <= MOST_ROWS:
        raise InputError(f"{name} is {value!r}")
    return value


def _floats(file: SectionFile, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    array = file.section(name).view(np.float32).reshape(shape)
    if not np.isfinite(array).all():
        raise InputError(f"section {name!r} holds NaN or infinity")
    return array


def _as_candidates(candidates: Any, queries: int) -> NDArray[np.int64]:
    array = np.asarray(candidates)
    if array.ndim != 2 or len(array) != queries or array.dtype.kind not in "iu":
        shape = f"{array.dtype} of shape {array.shape}"
        raise InputError(f"candidates are {shape}, expected int64 of shape ({queries}, w), a row for each query")
    return as_ids(array.reshape(-1), "candidates").reshape(array.shape)
