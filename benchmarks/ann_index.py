"""What the benchmark asks of every vector index, ours and the peers', and our configurations."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ann_data import Dataset, Floats, Ids, K


def package(name: str) -> Any:
    """An optional module, untyped: none of the peers has complete type information."""
    return importlib.import_module(name)


class Spec(NamedTuple):
    """What an index has to know before it has vectors; `metric` "cosine" means that all have unit length."""

    n: int
    dim: int
    metric: str

    @classmethod
    def of(cls, data: Dataset) -> Spec:
        return cls(len(data.base), data.base.shape[1], data.metric)

    def pick(self, cosine: Any, ip: Any, l2: Any) -> Any:
        """The peer's word for the metric."""
        return {"cosine": cosine, "ip": ip, "l2": l2}[self.metric]


class Index(ABC):
    """One index: built or loaded, set to an effort, searched. Not more than `set` lies outside the measured time."""

    alike = True
    """Whether queries find the same one by one and in a batch."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.threads = 1

    @abstractmethod
    def build(self, base: Floats, learn: Floats | None, threads: int) -> None: ...

    @abstractmethod
    def save(self, folder: Path) -> None: ...

    @abstractmethod
    def load(self, folder: Path) -> None: ...

    @abstractmethod
    def set(self, effort: Any, threads: int) -> None:
        """Effort and threads of the searches that follow."""

    @abstractmethod
    def search(self, queries: Floats) -> Ids:
        """The K best for each query, as integers [q, K]."""

    def search_one(self, queries: Floats) -> Ids:
        """The same for queries float32[1, dim], where the peer has a call of its own for that."""
        return self.search(queries)


@dataclass(frozen=True, eq=False)
class Contender:
    """A configuration: how to make the index, and what to sweep, from the cheapest effort to the dearest."""

    name: str
    package: str
    make: Callable[[Spec], Index]
    efforts: Sequence[Any]
    metrics: tuple[str, ...] = ("cosine", "ip", "l2")
    needs_learn: bool = False

    @property
    def ours(self) -> bool:
        return self.package == "modular-rag"

    @property
    def version(self) -> str:
        return f"{self.package} {version(self.package)}"

    def fits(self, data: Dataset) -> bool:
        return data.metric in self.metrics and (data.learn is not None or not self.needs_learn)


class Ours(Index):
    """Any of our indexes: `make` creates an empty one, `set` gives the keywords of `search`."""

    alike = False  # a graph scans for a batch where that costs less

    def __init__(self, spec: Spec, make: Callable[[Spec, int], Any], learns: bool = False) -> None:
        super().__init__(spec)
        self.make = make
        self.index = make(spec, 0)
        self.learns = learns
        self.keywords: dict[str, Any] = {}

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        self.index = self.make(self.spec, threads)
        if self.learns:
            self.index.learn(base, learn)
        self.index.add(np.arange(len(base)), base)

    def save(self, folder: Path) -> None:
        self.index.save(folder / "index.rag")

    def load(self, folder: Path) -> None:
        self.index = type(self.index).open(folder / "index.rag")

    def set(self, effort: dict[str, Any], threads: int) -> None:
        self.keywords = {**effort, "threads": threads}

    def search(self, queries: Floats) -> Ids:
        ids: Ids = self.index.search(queries, K, **self.keywords).ids
        return ids


def scan(codec: str, reranks: Sequence[int] = (), learns: bool = False) -> Contender:
    """A compressed scan; `reranks`: how many candidates of the first pass are ranked again (none: all there is)."""

    def make(spec: Spec, threads: int) -> Any:
        from rag.index import ScanIndex

        return ScanIndex(spec.dim, spec.metric, codec)  # type: ignore[arg-type]

    efforts = [{"rerank": count} for count in reranks] or [{}]
    name = f"scan {codec}" + " ood" * learns
    return Contender(name, "modular-rag", partial(Ours, make=make, learns=learns), efforts, needs_learn=learns)


def graph(codec: str, learns: bool = False) -> Contender:
    """A walk along a graph; the recall that is asked for is swept."""

    def make(spec: Spec, threads: int) -> Any:
        from rag.index import GraphIndex

        return GraphIndex(spec.dim, spec.metric, codec, threads=threads)  # type: ignore[arg-type]

    efforts = [{"recall": recall} for recall in RECALLS]
    name = f"graph {codec}" + " ood" * learns
    return Contender(name, "modular-rag", partial(Ours, make=make, learns=learns), efforts, needs_learn=learns)


RECALLS = (0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.965, 0.975, 0.985, 0.99, 0.995, 0.998)
RERANKS = (10, 15, 20, 30, 50, 80, 120, 200, 400, 800, 1600)

OURS: list[Contender] = [
    scan("float32"),
    scan("int8", RERANKS[:6]),
    scan("lvq4x4", RERANKS),
    scan("rabitq1", RERANKS),
    scan("rabitq2", RERANKS),
    scan("leanvec", RERANKS),
    scan("leanvec", RERANKS, learns=True),
    graph("leanvec4"),
    graph("leanvec4", learns=True),
    graph("leanvec"),
    graph("lvq4x8"),
    graph("float16"),
]
