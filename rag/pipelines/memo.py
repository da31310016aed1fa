"""Results that need not be computed again: a content cache for all runs, and the checkpoint of one run.

Both are one SQLite file, or memory, from keys to bytes. They differ in what makes a key:

- the cache keeps results of deterministic operators; its key is the operator, its settings, its inputs and the
  fingerprints of its resources. Whatever changes, the key changes with it;
- a checkpoint keeps the result of every operator of one run, also those that are not deterministic, so that a run that
was
  cut off goes on where it was. Its key adds how often the same thing was done before in that run.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any, Protocol

from rag.errors import DamagedFileError
from rag.operators import Operator
from rag.pipelines.content import NotKept, digest, from_bytes, to_bytes

__all__ = ["MISS", "Checkpoint", "ContentCache", "Memo"]

MISS: Any = object()
"""What a look-up gives when there is nothing."""


class Memo(Protocol):
    """Remembers results of operators."""

    def key(self, node: str, operator: Operator, arguments: list[Any], resources: dict[str, Any]) -> str | None:
        """The key of one execution; None when its result is not kept."""
        ...

    def get(self, key: str, store: Any) -> Any:
        """The result under a key, or MISS; `store` is where its hits get their text from."""
        ...

    def put(self, key: str, result: Any) -> None:
        """Keep a result; one that has no form as bytes is silently not kept."""
        ...


class _Shelf:
    """Keys to bytes, in memory (the most recently used ones) and, with a path, in an SQLite file."""

    def __init__(self, path: str | Path | None, in_memory: int) -> None:
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._in_memory = in_memory
        self._lock = threading.Lock()
        self._path = path
        self._db: sqlite3.Connection | None = None
        if path is not None:
            try:
                self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
            except sqlite3.DatabaseError as error:
                raise DamagedFileError(f"cannot use {path} to keep results: {error}", hint="remove it") from error

    def get(self, key: str, store: Any) -> Any:
        with self._lock:
            data = self._recent.get(key)
            if data is not None:
                self._recent.move_to_end(key)
            elif self._db is not None:
                row = self._db.execute("SELECT value FROM results WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    data = row[0]
                    self._keep(key, data)
        return MISS if data is None else from_bytes(data, store)

    def put(self, key: str, result: Any) -> None:
        try:
            data = to_bytes(result)
        except NotKept:
            return
        with self._lock:
            self._keep(key, data)
            if self._db is not None:
                self._db.execute("INSERT OR REPLACE INTO results VALUES (?, ?)", (key, data))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _keep(self, key: str, data: bytes) -> None:
        self._recent[key] = data
        self._recent.move_to_end(key)
        while len(self._recent) > self._in_memory:
            self._recent.popitem(last=False)


class ContentCache(_Shelf):
    """Results of deterministic operators that wait for something, under the content that they depend on.

    Hand one to a pipeline, or to several, which then share what they have in common. `path` keeps it on disk;
    `in_memory` is how many results stay in memory. Safe for threads and, on disk, for processes.
    """

    def __init__(self, path: str | Path | None = None, *, in_memory: int = 4096) -> None:
        super().__init__(path, in_memory)
        self.hits = 0
        self.misses = 0

    def key(self, node: str, operator: Operator, arguments: list[Any], resources: dict[str, Any]) -> str | None:
        if not operator.deterministic or not operator.waits:
            return None  # what only computes in memory is faster done again than looked up
        try:
            return digest(
                operator.operator_name,
                operator.model_dump_json(),
                arguments,
                [fingerprint(r) for r in resources.values()],
            )
        except NotKept:
            return None

    def get(self, key: str, store: Any) -> Any:
        result = super().get(key, store)
        if result is MISS:
            self.misses += 1
        else:
            self.hits += 1
        return result


class Checkpoint(_Shelf):
    """The finished nodes of one run in a file: hand the same file to the same run again, and it goes on where it was.

    Nothing that was finished is run twice. Use a new file for each run, and remove it when the run is done.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, in_memory=64)
        self._done: Counter[str] = Counter()

    def key(self, node: str, operator: Operator, arguments: list[Any], resources: dict[str, Any]) -> str | None:
        try:
            base = digest(node, operator.operator_name, operator.model_dump_json(), arguments)
        except NotKept:
            return None
        with self._lock:
            self._done[base] += 1
            return f"{base}:{self._done[base]}"


def fingerprint(resource: Any) -> str:
    """What tells two states of a resource apart. Raises NotKept for one that cannot tell."""
    for name in ("fingerprint", "name"):
        value = getattr(resource, name, None)
        if isinstance(value, str):
            return value
    raise NotKept(type(resource).__name__)
