"""What flows through a pipeline: documents, chunks, queries, hits, contexts, answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError

__all__ = [
    "Answer",
    "Chunk",
    "ChunkStore",
    "Citation",
    "Context",
    "Delta",
    "Document",
    "Hits",
    "Message",
    "Metadata",
    "Passage",
    "Query",
    "State",
    "Usage",
    "as_queries",
    "as_query",
    "line_of",
]

Metadata: TypeAlias = Mapping[str, Any]
"""JSON values (str, int, float, bool, None, lists of them) by name."""


@dataclass(frozen=True, slots=True)
class Document:
    """One source text. `text` is what the reader extracted; every offset in the package counts its characters.

    `id` is unique in a collection; files use their path relative to the indexed folder, with forward slashes.
    """

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document: `text == document.text[start:end]`.

    `id` is the collection's number for it (-1 before it is stored). `parent` is the larger span (start, end) of the
    document to hand to a reader in its place (small-to-big), or None.
    """

    document: str
    text: str
    start: int
    end: int
    id: int = -1
    parent: tuple[int, int] | None = None
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """A question: its text, an optional metadata filter expression, and what was made of it before: a vector
    (float32[d]), and the vectors of its tokens (float32[t, d])."""

    text: str
    filter: str | None = None
    vector: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    tokens: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    def with_text(self, text: str) -> Query:
        """Another question within the same filter; what was made of this one's text is not carried along."""
        return replace(self, text=text, vector=None, tokens=None)


@runtime_checkable
class ChunkStore(Protocol):
    """Where hits get their text from; a `rag.collection.Collection` is one."""

    def chunks(self, ids: NDArray[np.int64]) -> list[Chunk]:
        """The chunks with these ids, in this order; NotFoundError for an id that is not there."""
        ...


class Hits:
    """Ranked chunks as columns, best first: `ids` int64[n], `scores` float32[n], and further named columns of length n.

    Immutable: the arrays are made read-only, and every method returns new hits. Text is fetched from `store` only
    when it is asked for.
    """

    __slots__ = ("columns", "ids", "scores", "store")

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    columns: Mapping[str, NDArray[Any]]
    store: ChunkStore | None

    def __init__(
        self,
        ids: Any = (),
        scores: Any = (),
        columns: Mapping[str, Any] | None = None,
        store: ChunkStore | None = None,
    ) -> None:
        self.ids = _column(ids, np.int64)
        self.scores = _column(scores, np.float32)
        self.columns = {name: _column(values, None) for name, values in (columns or {}).items()}
        self.store = store
        for name, values in {"scores": self.scores, **self.columns}.items():
            if values.shape != self.ids.shape:
                raise InputError(f"hits: column {name!r} has shape {values.shape}, ids have {self.ids.shape}")

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hits):
            return NotImplemented
        return (
            np.array_equal(self.ids, other.ids)
            and np.array_equal(self.scores, other.scores)
            and self.columns.keys() == other.columns.keys()
            and all(np.array_equal(self.columns[c], other.columns[c]) for c in self.columns)
        )

    __hash__ = None  # type: ignore[assignment]  # columns of floats make poor keys

    def __repr__(self) -> str:
        best = ", ".join(f"{i}: {s:.4g}" for i, s in zip(self.ids[:3], self.scores[:3], strict=True))
        return f"Hits(n={len(self)}, {{{best}{', ...' if len(self) > 3 else ''}}})"

    def take(self, rows: Any) -> Hits:
        """The hits at these row numbers (int[m]), or where this mask (bool[n]) is true, in that order."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Hits(self.ids[rows], self.scores[rows], columns, self.store)

    def top(self, k: int) -> Hits:
        """The first k."""
        return self if k >= len(self) else self.take(slice(0, max(k, 0)))

    def with_scores(self, scores: Any) -> Hits:
        """The same chunks under new scores (float[n]), sorted by them, best first; ties keep their order."""
        scores = _column(scores, np.float32)
        if scores.shape != self.ids.shape:
            raise InputError(f"hits: {len(self)} hits but {len(scores)} scores")
        order = np.argsort(-scores, kind="stable")
        columns = {name: values[order] for name, values in self.columns.items()}
        return Hits(self.ids[order], scores[order], columns, self.store)

    def with_columns(self, **columns: Any) -> Hits:
        """The same hits with these columns added or replaced (each an array of length n)."""
        return Hits(self.ids, self.scores, {**self.columns, **columns}, self.store)

    def chunks(self) -> list[Chunk]:
        """The chunks, best first, read from the store."""
        if not len(self):
            return []
        if self.store is None:
            raise InputError("these hits carry no store, so their text cannot be read", hint="pass store= to Hits")
        return self.store.chunks(self.ids)


@dataclass(frozen=True, slots=True)
class Passage:
    """A numbered piece of a context: `text == document.text[start:end]`, beginning on `line` (from 1) of that text.

    `shown` is what a language model reads in its place where the text was shortened within its sentences; citations
    are those of `text` all the same.
    """

    number: int
    chunk: int
    document: str
    text: str
    start: int
    end: int
    line: int
    score: float
    metadata: Metadata = field(default_factory=dict)
    shown: str | None = None

    @property
    def reading(self) -> str:
        """What a language model reads of it."""
        return self.text if self.shown is None else self.shown


@dataclass(frozen=True, slots=True)
class Context:
    """The passages handed to a reader, and how many more were left out because the token budget was full."""

    passages: tuple[Passage, ...] = ()
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.passages)

    def __iter__(self) -> Iterator[Passage]:
        return iter(self.passages)

    def __str__(self) -> str:
        return "\n\n".join(f"[{p.number}] {p.reading}" for p in self.passages)


@dataclass(frozen=True, slots=True)
class Citation:
    """A place in a document that supports an answer: characters `start` to `end` of its text, which read `quote`."""

    number: int
    chunk: int
    document: str
    start: int
    end: int
    line: int
    quote: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a language model consumed. `cached_tokens`: those of the prompt that it did not compute again."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0
    cached_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.calls + other.calls,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, what it rests on, and what it cost. `found` is False when the documents do not hold one.

    `tokens` and `logprobs` (natural logarithms, one a token) are what a language model said, before its citations were
    checked, where it tells them. They say how the answer came about, not what it is: answers are equal without them.
    """

    text: str
    citations: tuple[Citation, ...] = ()
    found: bool = True
    score: float | None = None
    usage: Usage = Usage()
    tokens: tuple[str, ...] | None = field(default=None, compare=False, repr=False)
    logprobs: tuple[float, ...] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


class State(Mapping[str, Any]):
    """What a run ends with: its channels by name, also as attributes (`state.answer`). Cannot be changed."""

    __slots__ = ("_channels",)

    def __init__(self, channels: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_channels", dict(channels))

    def __getitem__(self, channel: str) -> Any:
        return self._channels[channel]

    def __iter__(self) -> Iterator[str]:
        return iter(self._channels)

    def __len__(self) -> int:
        return len(self._channels)

    def __getattr__(self, channel: str) -> Any:
        try:
            return object.__getattribute__(self, "_channels")[channel]
        except KeyError:
            raise AttributeError(f"no channel {channel!r} was written; there are {', '.join(self)}") from None

    def __setattr__(self, channel: str, value: Any) -> None:
        raise AttributeError(f"channel {channel!r} cannot be set: a state is immutable")

    def __repr__(self) -> str:
        return f"State({', '.join(f'{name}={value!r}' for name, value in self.items())})"


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of text that a streaming operator hands out before its result is complete."""

    text: str


def _column(values: Any, dtype: Any) -> NDArray[Any]:
    """A read-only one-dimensional array; copied only when that is needed to protect a caller's own array."""
    array = np.asarray(values, dtype=dtype)
    if array.ndim != 1:
        raise InputError(f"hits: a column has {array.ndim} dimensions, expected 1")
    if array.flags.writeable:
        array = array.copy() if array is values or isinstance(array.base, np.ndarray) else array
        array.flags.writeable = False
    return array


def line_of(text: str, offset: int) -> int:
    """The line number, from 1, of the character at `offset` in `text`."""
    return text.count("\n", 0, offset) + 1


def as_query(query: str | Query) -> Query:
    """A Query from a question given as text."""
    return query if isinstance(query, Query) else Query(query)


def as_queries(queries: Sequence[str | Query]) -> list[Query]:
    """Queries from questions given as text."""
    return [as_query(q) for q in queries]
