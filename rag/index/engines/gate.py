"""Many may read at once, one may write alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Gate"]


class Gate:
    """A lock for readers and writers. A waiting writer lets no further reader in, so that it gets its turn."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._readers = 0
        self._writer = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._writer, self._free:
            self._readers += 1
        try:
            yield
        finally:
            with self._free:
                self._readers -= 1
                self._free.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._writer:
            with self._free:
                self._free.wait_for(lambda: self._readers == 0)
            yield
