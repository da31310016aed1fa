"""Knowledge graphs: typed nodes, and statements about them that know where they come from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag._native import CsrGraph, rows_of_edges
from rag.errors import InputError, NotFoundError, did_you_mean
from rag.graphs.statements import NO_SOURCE, Statements, StatementTable

__all__ = ["Edges", "KnowledgeGraph", "Node"]


class Node(NamedTuple):
    """A node: its kind, such as `entity`, `chunk` or `document`, its name among those, and its attributes."""

    kind: str
    name: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Edges:
    """Statements that say the same, as one: int32[n] subjects, relations and objects, ascending; `weights` float32[n],
    their sums; `counts` int64[n], how many there are."""

    subjects: NDArray[np.int32]
    relations: NDArray[np.int32]
    objects: NDArray[np.int32]
    weights: NDArray[np.float32]
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.subjects)


class KnowledgeGraph:
    """Nodes known by kind and name, and weighted statements between them, each with its source and place in it.

    An edge is what its statements add up to, so that to withdraw a source leaves what was there without it. Nodes
    have numbers from 0, which they keep; one without statements counts as gone, unless it was `keep`-ed. What runs on
    arrays gets them from `csr`, which is made anew only after a change. Not safe to change from several threads.
    """

    def __init__(self) -> None:
        self._kinds: list[str] = []
        self._names: list[str] = []
        self._attributes: dict[int, dict[str, Any]] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._relations: dict[str, int] = {}
        self._uses = np.zeros(0, np.int64)
        self._kept: set[int] = set()
        self._table = StatementTable()
        self._made: dict[tuple[frozenset[str] | None, bool], CsrGraph] = {}

    def __len__(self) -> int:
        """Nodes."""
        return len(self.nodes())

    def __repr__(self) -> str:
        return f"<KnowledgeGraph of {len(self):,} nodes and {len(self._table):,} statements>"

    def node(self, kind: str, name: str, **attributes: Any) -> int:
        """The number of a node, which is made where there is none; attributes are added to those it has."""
        if not kind or not name:
            raise InputError(f"a node of kind {kind!r} and name {name!r}", hint="neither may be empty")
        number = self._numbers.setdefault((kind, name), len(self._names))
        if number == len(self._names):
            self._kinds.append(kind)
            self._names.append(name)
            self._made.clear()
        if attributes:
            self._attributes.setdefault(number, {}).update(attributes)
        return number

    def find(self, kind: str, name: str) -> int | None:
        """The number of a node that is there."""
        number = self._numbers.get((kind, name))
        return number if number is not None and self._is_live(number) else None

    def at(self, number: int) -> Node:
        """A node by its number; NotFoundError where none has it."""
        if not 0 <= number < len(self._names):
            raise NotFoundError(f"there is no node {number}", hint=f"the last one is {len(self._names) - 1}")
        return Node(self._kinds[number], self._names[number], self._attributes.get(number, {}))

    def keep(self, number: int) -> None:
        """Let a node be there also without statements."""
        self.at(number)
        self._kept.add(number)

    def is_kept(self, number: int) -> bool:
        """Whether it is there also without statements."""
        return number in self._kept

    def nodes(self, kind: str | None = None) -> NDArray[np.int32]:
        """Numbers of the nodes that are there, ascending, of one kind or all."""
        live = np.zeros(len(self._names), np.bool_)
        used = self._uses[: len(live)]
        live[: len(used)] = used > 0
        live[list(self._kept)] = True
        if kind is not None:
            live &= np.fromiter((own == kind for own in self._kinds), np.bool_, len(self._kinds))
        return np.flatnonzero(live).astype(np.int32)

    @property
    def kinds(self) -> dict[str, int]:
        """Kinds of the nodes that are there, and how many of each, by name."""
        counts: dict[str, int] = {}
        for number in self.nodes().tolist():
            counts[self._kinds[number]] = counts.get(self._kinds[number], 0) + 1
        return dict(sorted(counts.items()))

    @property
    def relations(self) -> tuple[str, ...]:
        """Names of relations in the order of their numbers."""
        return tuple(self._relations)

    def relation(self, name: str) -> int:
        """The number of a relation, which is made where there is none."""
        if not name:
            raise InputError("a relation without a name", hint="name it, such as 'mentions'")
        return self._relations.setdefault(name, len(self._relations))

    def add(
        self,
        subjects: ArrayLike,
        relation: str,
        objects: ArrayLike,
        weights: ArrayLike = 1.0,
        source: int = NO_SOURCE,
        spans: ArrayLike = (0, 0),
    ) -> None:
        """State that edges lead from subjects to objects: nodes int[n] or one for all; see `Statements`.

        Raises InputError for nodes that do not exist, and for weights that are negative or not finite.
        """
        first, second = np.broadcast_arrays(np.atleast_1d(np.asarray(subjects)), np.atleast_1d(np.asarray(objects)))
        self.extend(Statements.of(first, self.relation(relation), second, weights, source, spans))

    def extend(self, statements: Statements) -> None:
        """Add statements of any sources."""
        for ends in (statements.subjects, statements.objects):
            _check_numbers("node", ends, len(self._names))
        _check_numbers("relation", statements.relations, len(self._relations))
        self._table.append(statements)
        self._count_uses(statements, 1)

    def withdraw(self, sources: Iterable[int]) -> int:
        """Take back all that these sources say; returns how many statements that were."""
        gone = self._table.withdraw(list(sources))
        self._count_uses(gone, -1)
        self._table = self._table.compacted()
        return len(gone)

    def statements(self, sources: Sequence[int] | None = None) -> Statements:
        """All statements, or those of some sources, in the order they were added."""
        return self._table.live() if sources is None else self._table.of_sources(sources)

    def __contains__(self, source: object) -> bool:
        """Whether a source says anything."""
        return source in self._table

    def edges(self, relations: Collection[str] | None = None) -> Edges:
        """Statements that say the same added up, of some relations or all."""
        stated = self._of_relations(relations)
        ends = np.stack([stated.subjects, stated.relations, stated.objects], axis=1)
        same, where = np.unique(ends, axis=0, return_inverse=True)
        where = where.reshape(-1)
        weights = np.bincount(where, stated.weights, len(same)).astype(np.float32)
        subjects, numbers, objects = np.ascontiguousarray(same.T)
        return Edges(subjects, numbers, objects, weights, np.bincount(where, minlength=len(same)))

    def csr(self, relations: Collection[str] | None = None, *, both_ways: bool = True) -> CsrGraph:
        """Edges of some relations or all as an array graph of the nodes' numbers, in both directions or as stated.

        Weights of statements between the same nodes are added. Made once for each choice, until something changes.
        """
        key = None if relations is None else frozenset(relations), both_ways
        if key not in self._made:
            stated = self._of_relations(relations)
            rows = rows_of_edges(
                len(self._names),
                stated.subjects.astype(np.int64),
                stated.objects.astype(np.int64),
                np.ascontiguousarray(stated.weights),
                both_ways,
            )
            self._made[key] = CsrGraph(*rows)
        return self._made[key]

    def _of_relations(self, relations: Collection[str] | None) -> Statements:
        stated = self._table.live()
        if relations is None:
            return stated
        numbers = []
        for name in relations:
            if name not in self._relations:
                raise NotFoundError(f"there is no relation {name!r}", hint=did_you_mean(name, self._relations))
            numbers.append(self._relations[name])
        return stated.take(np.isin(stated.relations, numbers))

    def _count_uses(self, statements: Statements, by: int) -> None:
        if len(self._uses) < len(self._names):
            more = np.zeros(max(len(self._names), 2 * len(self._uses)) - len(self._uses), np.int64)
            self._uses = np.concatenate([self._uses, more])
        for ends in (statements.subjects, statements.objects):
            np.add.at(self._uses, ends, by)
        self._made.clear()

    def _is_live(self, number: int) -> bool:
        return number in self._kept or (number < len(self._uses) and bool(self._uses[number] > 0))


def _check_numbers(what: str, numbers: NDArray[np.int32], count: int) -> None:
    wrong = numbers[(numbers < 0) | (numbers >= count)]
    if len(wrong):
        raise InputError(f"a statement has {what} {wrong[0]}, which is none", hint=f"make it first, by `{what}(...)`")
