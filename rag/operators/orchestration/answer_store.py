"""Answers by the meaning of their questions: what the operators of the semantic answer cache share."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.errors import DamagedFileError
from rag.index import ScanIndex
from rag.types import Answer, Citation, Query

__all__ = ["AnswerStore", "Scope"]

_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY, place TEXT NOT NULL, version TEXT NOT NULL, filter TEXT NOT NULL,
    question TEXT NOT NULL, vector BLOB NOT NULL, answer TEXT NOT NULL
)
"""
_NUMBER = re.compile(r"\d+")
_CANDIDATES = 8
_FEW_TOMBSTONES = 64


class Scope(NamedTuple):
    """What an answer rests on: the collection's `place`, its `version` (generation, encoder), the query's filter."""

    place: str
    version: str
    filter: str


@dataclass
class _Entry:
    scope: Scope
    question: str
    answer: Answer


class AnswerStore:
    """Questions in a native index for each scope, their answers beside them, the least recently used dropped first.

    Safe to use from several threads. With a file, what is put in is there again after a restart (the answers as they
    were, without what they had cost). Raises DamagedFileError when that file is none of ours.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.RLock()
        self._indexes: dict[Scope, ScanIndex] = {}
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._next = 0
        self._file = file
        self._db: sqlite3.Connection | None = None
        if file is not None:
            with self._explained():
                self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
                self._db.execute(_TABLE)
                self._load(self._db)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, scope: Scope, query: Query, vector: NDArray[np.float32], similarity: float) -> Answer | None:
        """The answer to the nearest question whose cosine is at least `similarity`, or None.

        Questions that name different numbers are never the same: their embeddings are close, their answers are not.
        """
        with self._lock:
            self._forget_older(scope)
            index = self._indexes.get(scope)
            if index is None:
                return None
            found = index.search(vector[None, :], min(_CANDIDATES, len(index)), threads=1)
            for key, score in zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True):
                if score >= similarity and _numbers(self._entries[key].question) == _numbers(query.text):
                    self._entries.move_to_end(key)
                    return self._entries[key].answer
        return None

    def put(self, scope: Scope, query: Query, vector: NDArray[np.float32], answer: Answer, size: int) -> None:
        """Keep an answer, in place of one to the same words; then at most `size` in all."""
        with self._lock, self._explained():
            self._forget_older(scope)
            same = [k for k, e in self._entries.items() if e.scope == scope and e.question == query.text]
            self._drop(same)
            key = self._next
            self._add(key, _Entry(scope, query.text, answer), vector)
            if self._db is not None:
                row = (key, *scope, query.text, vector.astype("<f4").tobytes(), json.dumps(_plain(answer)))
                self._db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self._drop(list(self._entries)[: max(0, len(self._entries) - size)])

    def _add(self, key: int, entry: _Entry, vector: NDArray[np.float32]) -> None:
        index = self._indexes.get(entry.scope)
        if index is None:
            index = self._indexes[entry.scope] = ScanIndex(len(vector), "cosine")
        index.add(np.array([key]), vector[None, :])
        self._entries[key] = entry
        self._next = max(self._next, key + 1)

    def _forget_older(self, scope: Scope) -> None:
        """Drop the answers from other versions of the collection."""
        stale = [s for s in self._indexes if s.place == scope.place and s.version != scope.version]
        if stale:
            with self._explained():
                self._drop([key for key, entry in self._entries.items() if entry.scope in stale])

    def _drop(self, keys: list[int]) -> None:
        for key in keys:
            scope = self._entries.pop(key).scope
            index = self._indexes[scope]
            index.delete(np.array([key]))
            if not len(index):
                del self._indexes[scope]
            elif index.stats().tombstones > len(index) + _FEW_TOMBSTONES:
                self._indexes[scope] = self._without_tombstones(scope, index)
        if self._db is not None and keys:
            self._db.executemany("DELETE FROM answers WHERE id = ?", [(key,) for key in keys])

    def _without_tombstones(self, scope: Scope, index: ScanIndex) -> ScanIndex:
        ids = np.array(sorted(key for key, entry in self._entries.items() if entry.scope == scope))
        fresh = ScanIndex(index.dim, "cosine")
        fresh.add(ids, index.vectors(ids))
        return fresh

    def _load(self, db: sqlite3.Connection) -> None:
        columns = "id, place, version, filter, question, vector, answer"
        for key, place, version, filter_, question, vector, answer in db.execute(
            f"SELECT {columns} FROM answers ORDER BY id"  # noqa: S608  the names above
        ):
            entry = _Entry(Scope(place, version, filter_), question, _answer(answer))
            self._add(key, entry, np.frombuffer(vector, "<f4"))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            if self._file is None:
                raise
            raise DamagedFileError(
                f"the answer cache {self._file} cannot be used: {error}", hint="remove the file; it is only a cache"
            ) from error


def _numbers(question: str) -> list[str]:
    return sorted(_NUMBER.findall(question))


def _plain(answer: Answer) -> dict[str, object]:
    fields = asdict(answer)
    for name in ("usage", "tokens", "logprobs"):  # an answer that is kept costs nothing, and nobody is saying it
        del fields[name]
    return fields


def _answer(text: str) -> Answer:
    fields = json.loads(text)
    citations = tuple(Citation(**citation) for citation in fields.pop("citations"))
    return Answer(citations=citations, **fields)
