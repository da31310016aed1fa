"""Lexical search: inverted indexes on disk, searched together with exact BM25."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag._native import Postings, merge_postings, search_postings
from rag.errors import DamagedFileError, InputError
from rag.index.files import read_sections, write_sections
from rag.index.filter import allowed_ids
from rag.index.inputs import as_ids, check_count, check_k
from rag.index.protocol import Matches
from rag.index.text import stems, tokens

__all__ = ["LexicalIndex", "merge_lexical", "search_lexical"]

KIND = "lexical"
DTYPES = {
    "ids": "int64",
    "lengths": "uint32",
    "spelling": "uint8",
    "term_offsets": "uint64",
    "posting_offsets": "uint64",
    "rows": "uint32",
}  # of the sections; that of "counts" differs from file to file
COUNTS = ("uint8", "uint16", "uint32")
NONE: NDArray[np.int64] = np.empty(0, np.int64)


class LexicalIndex:
    """An immutable inverted index over texts. Several of them, each a segment, are searched as if they were one.

    For each term it holds the rows it occurs in and how often; rows are in the order of their ids.
    """

    __slots__ = ("_arrays", "_postings", "language")

    language: str
    """Whose stems and stop words were used."""

    def __init__(self, arrays: dict[str, NDArray[Any]], language: str) -> None:
        """From its arrays; use `build`, `open` or `merge_lexical`. Raises ValueError when they do not fit together."""
        self._arrays = arrays
        self._postings = Postings(**arrays)
        self.language = language

    @classmethod
    def build(cls, ids: ArrayLike, texts: Sequence[str], *, language: str = "english") -> LexicalIndex:
        """Index texts under ids int64[n] (each >= 0, no two alike).

        `language` is one of `rag.index.text.languages()`: its Snowball stemmer is used, for English stop words are
        dropped; "none" keeps every word as it is. Raises InputError for ids that do not fit or an unknown language.
        """
        ids = as_ids(ids)
        if ids.shape != (len(texts),):
            raise InputError(f"{len(texts)} texts but ids of shape {ids.shape}")
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        if len(ids) and ids[0] < 0:
            raise InputError(f"id {ids[0]} is negative")
        if (twice := np.flatnonzero(ids[1:] == ids[:-1])).size:
            raise InputError(f"id {ids[twice[0]]} is given more than once")
        split = tokens([texts[row] for row in order.tolist()])
        term_of_word = stems(split.words(), language)
        terms = sorted({term for term in term_of_word if term is not None})
        numbers: dict[str | None, int] = {term: number for number, term in enumerate(terms)}
        numbers[None] = -1
        posting_offsets, rows, counts, lengths = split.invert(
            np.fromiter((numbers[term] for term in term_of_word), np.int32, len(term_of_word)), len(terms)
        )
        spelled = [term.encode() for term in terms]
        arrays: dict[str, NDArray[Any]] = {
            "ids": ids,
            "lengths": lengths,
            "spelling": np.frombuffer(b"".join(spelled), np.uint8),
            "term_offsets": np.cumsum([0, *map(len, spelled)], dtype=np.uint64),
            "posting_offsets": posting_offsets,
            "rows": rows,
            "counts": _narrow(counts),
        }
        return cls(arrays, language)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> LexicalIndex:
        """The index saved there, mapped into memory.

        Raises NotFoundError when there is none, DamagedFileError, naming file and section, when it fails a check.
        """
        file = read_sections(Path(path), KIND)
        try:
            dtypes: dict[str, str] = {**DTYPES, "counts": file.meta["counts"]}
            arrays = {name: file.section(name).view(np.dtype(dtype)) for name, dtype in dtypes.items()}
            if dtypes["counts"] not in COUNTS or not isinstance(language := file.meta["language"], str):
                raise TypeError(f"its settings are {file.meta!r}")
            return cls(arrays, language)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFileError(f"{path}: {error}", hint="rebuild it from the stored chunks") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to `path`: under a temporary name, synced, then renamed, so that no half-written file is ever seen.

        Raises CollectionError when it cannot be written.
        """
        meta = {"language": self.language, "counts": self._arrays["counts"].dtype.name}
        write_sections(Path(path), KIND, meta, {name: [array.view(np.uint8)] for name, array in self._arrays.items()})

    def __len__(self) -> int:
        """Texts in it, deleted ones included."""
        return len(self.ids)

    @property
    def ids(self) -> NDArray[np.int64]:
        """int64[n], ascending."""
        return self._arrays["ids"]

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(array.nbytes for array in self._arrays.values())


def search_lexical(
    indexes: Sequence[LexicalIndex],
    queries: Sequence[str],
    k: int,
    *,
    filter: NDArray[np.int64] | None = None,
    deleted: NDArray[np.int64] = NONE,
    k1: float = 0.9,
    b: float = 0.4,
    threads: int = 0,
) -> Matches:
    """The k texts of the highest BM25 score for each query, among those that share a term with it.

    `filter` (allowed ids) and `deleted` are sorted and unique. Document frequencies, document count and average length
    are those of all indexes together, without the deleted texts, whatever the filter. Ids must not repeat across
    indexes. A term that occurs twice in a query counts twice; ties go to the smaller id; `threads` 0 means all cores.

    BM25 as in Lucene, without its constant factor k1 + 1: the sum over query terms of
    ln(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / average length))
    (Kamphuis et al. 2020, "Which BM25 do you mean?"). Raises InputError for arguments out of range and for indexes of
    different languages.
    """
    k, threads = check_k(k), check_count(threads, "threads")
    if not (math.isfinite(k1) and k1 >= 0):
        raise InputError(f"k1 is {k1}, expected a number of at least 0")
    if not 0 <= b <= 1:
        raise InputError(f"b is {b}, expected a number from 0 to 1")
    deleted, allowed = _sorted_ids("deleted", deleted), allowed_ids(filter)
    if not indexes or not queries:
        return Matches(np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32))

    split = tokens(queries)
    numbers: dict[str, int] = {}
    term_of_word = [
        -1 if stem is None else numbers.setdefault(stem, len(numbers))
        for stem in stems(split.words(), _common_language(indexes))
    ]
    terms = np.asarray(term_of_word, np.int32)[split.ids()]
    kept = terms >= 0
    ids, scores = search_postings(
        [index._postings for index in indexes],
        [term.encode() for term in numbers],
        terms[kept].astype(np.uint32),
        np.concatenate(([0], np.cumsum(kept)))[split.offsets()],
        k,
        allowed,
        deleted,
        k1,
        b,
        threads,
    )
    return Matches(ids.reshape(len(queries), k), scores.reshape(len(queries), k))


def merge_lexical(indexes: Sequence[LexicalIndex], deleted: NDArray[np.int64] = NONE) -> LexicalIndex:
    """One index that holds what these hold, without the deleted ids (sorted, unique); the texts are not needed.

    Raises InputError when there is none to merge, languages differ, or an id is in two of them.
    """
    if not indexes:
        raise InputError("no index to merge")
    language = _common_language(indexes)
    deleted = _sorted_ids("deleted", deleted)
    ids = np.concatenate([index.ids for index in indexes])
    lengths = np.concatenate([index._arrays["lengths"] for index in indexes])
    order = np.argsort(ids, kind="stable")
    order = order[~np.isin(ids[order], deleted)]
    if (twice := np.flatnonzero(ids[order][1:] == ids[order][:-1])).size:
        raise InputError(f"id {ids[order][twice[0]]} is in two of the indexes")
    new_rows = np.full(len(ids), 0xFFFFFFFF, np.uint32)
    new_rows[order] = np.arange(len(order), dtype=np.uint32)
    spelling, term_offsets, posting_offsets, rows, counts = merge_postings(
        [index._postings for index in indexes],
        np.split(new_rows, np.cumsum([len(index) for index in indexes])[:-1]),
    )
    arrays = {
        "ids": ids[order],
        "lengths": lengths[order],
        "spelling": spelling,
        "term_offsets": term_offsets,
        "posting_offsets": posting_offsets,
        "rows": rows,
        "counts": _narrow(counts),
    }
    return LexicalIndex(arrays, language)


def _common_language(indexes: Sequence[LexicalIndex]) -> str:
    found = sorted({index.language for index in indexes})
    if len(found) > 1:
        raise InputError(f"indexes of different languages: {', '.join(found)}", hint="build them with the same one")
    return found[0]


def _sorted_ids(what: str, values: NDArray[np.int64]) -> NDArray[np.int64]:
    ids = as_ids(values, f"{what} ids")
    if (ids[1:] <= ids[:-1]).any():
        raise InputError(f"{what} ids are not sorted and unique", hint="pass numpy.unique(ids)")
    return ids


def _narrow(counts: NDArray[np.uint32]) -> NDArray[Any]:
    """The counts in as few bytes as the largest needs: nearly always one."""
    return counts.astype(np.min_scalar_type(counts.max(initial=0)))
