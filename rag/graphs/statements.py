"""Statements in columns: what a source says about two nodes, appended and withdrawn in proportion to their number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.errors import InputError

__all__ = ["NO_SOURCE", "StatementTable", "Statements"]

NO_SOURCE = -1
"""The source of statements that stand by themselves, such as those of an imported graph."""


@dataclass(frozen=True, slots=True)
class Statements:
    """n statements, each that an edge leads from `subjects` to `objects`.

    subjects, objects: nodes, int32[n]. relations: numbers of names, int32[n]. weights: float32[n], not negative.
    sources: the chunk that says so, int64[n], or `NO_SOURCE`. spans: where it does, int32[n, 2], characters of its text
    from and up to, 0 and 0 where that is not known.
    """

    subjects: NDArray[np.int32]
    relations: NDArray[np.int32]
    objects: NDArray[np.int32]
    weights: NDArray[np.float32]
    sources: NDArray[np.int64]
    spans: NDArray[np.int32]

    @classmethod
    def of(
        cls,
        subjects: ArrayLike,
        relations: ArrayLike,
        objects: ArrayLike,
        weights: ArrayLike = 1.0,
        sources: ArrayLike = NO_SOURCE,
        spans: ArrayLike = (0, 0),
    ) -> Statements:
        """Of arrays, or single values that hold for all. Raises InputError where they do not fit together."""
        first = np.atleast_1d(np.asarray(subjects, np.int32))
        try:
            made = cls(
                first,
                np.broadcast_to(np.asarray(relations, np.int32), first.shape),
                np.broadcast_to(np.asarray(objects, np.int32), first.shape),
                np.broadcast_to(np.asarray(weights, np.float32), first.shape),
                np.broadcast_to(np.asarray(sources, np.int64), first.shape),
                np.broadcast_to(np.asarray(spans, np.int32), (*first.shape, 2)),
            )
        except ValueError as error:
            raise InputError(
                f"the parts of statements do not fit together: {error}", hint="give one value for each, or one for all"
            ) from None
        if (wrong := ~(np.isfinite(made.weights) & (made.weights >= 0))).any():
            at = int(np.argmax(wrong))
            raise InputError(f"the weight of statement {at} is {made.weights[at]}", hint="finite and not negative")
        return made

    def __len__(self) -> int:
        return len(self.subjects)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Statements:
        """Some of them."""
        return Statements(*(part[rows] for part in self.columns()))

    def columns(self) -> tuple[NDArray[Any], ...]:
        """The arrays, in the order of the fields."""
        return self.subjects, self.relations, self.objects, self.weights, self.sources, self.spans


class StatementTable:
    """Statements that come and go by their sources."""

    def __init__(self) -> None:
        self._columns = [column.copy() for column in Statements.of([], [], []).columns()]
        self._live = np.zeros(0, np.bool_)
        self._count = 0
        self._of_source: dict[int, list[tuple[int, int]]] = {}

    def __len__(self) -> int:
        return int(self._live[: self._count].sum())

    def __contains__(self, source: object) -> bool:
        return source in self._of_source

    @property
    def sources(self) -> Iterable[int]:
        """Those that say anything."""
        return self._of_source.keys()

    def append(self, statements: Statements) -> None:
        """Add statements, whatever is there."""
        first, count = self._count, len(statements)
        self._make_room(first + count)
        for column, part in zip(self._columns, statements.columns(), strict=True):
            column[first : first + count] = part
        self._live[first : first + count] = True
        self._count += count
        borders = np.flatnonzero(np.diff(statements.sources)) + 1
        for begin, end in zip((0, *borders.tolist()), (*borders.tolist(), count), strict=True):
            if end > begin:
                source = int(statements.sources[begin])
                self._of_source.setdefault(source, []).append((first + begin, first + end))

    def withdraw(self, sources: Sequence[int]) -> Statements:
        """Take away, and return, all that these sources say; sources that say nothing are passed over."""
        rows = [np.arange(*span) for source in sources for span in self._of_source.pop(source, ())]
        at = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        self._live[at] = False
        return self._taken(at)

    def live(self) -> Statements:
        """All that hold, in the order they were added."""
        return self._taken(np.flatnonzero(self._live[: self._count]))

    def of_sources(self, sources: Sequence[int]) -> Statements:
        """What these say."""
        rows = [np.arange(*span) for source in sources for span in self._of_source.get(source, ())]
        return self._taken(np.concatenate(rows) if rows else np.zeros(0, np.int64))

    def compacted(self) -> StatementTable:
        """The same without the memory of what was withdrawn; itself while that is less than half."""
        if 2 * len(self) >= self._count:
            return self
        table = StatementTable()
        table.append(self.live())
        return table

    def _taken(self, rows: NDArray[np.int64]) -> Statements:
        return Statements(*(column[rows] for column in self._columns))

    def _make_room(self, count: int) -> None:
        room = len(self._live)
        if count <= room:
            return
        room = max(count, 2 * room, 64)
        self._columns = [_longer(column, room) for column in self._columns]
        self._live = _longer(self._live, room)


def _longer(column: NDArray[Any], room: int) -> NDArray[Any]:
    return np.concatenate([column, np.zeros((room - len(column), *column.shape[1:]), column.dtype)])
