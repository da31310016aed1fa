"""A semantic answer cache: asked before the work, filled after it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from rag.operators.base import Operator
from rag.operators.local_file import local_folder
from rag.operators.orchestration.answer_store import AnswerStore, Scope
from rag.operators.resources import Collection
from rag.types import Answer, Query, Usage

__all__ = ["AnswerCache", "StoreAnswer"]

_stores: dict[tuple[str, Path | None], AnswerStore] = {}
_opening = threading.Lock()


class _Cache(Operator, deterministic=False, waits=True):
    """The settings by which the two operators find the same store."""

    cache: str = Field(
        "answers", pattern=r"^[\w-]{1,64}$", description="name of the cache; pipelines that answer alike may share one"
    )
    folder: str | None = Field(
        None, description="folder below the working directory, or RAG_FILES, to keep it in; in memory when left out"
    )

    def store(self) -> AnswerStore:
        """The store of this process with this name and folder, opened at first use."""
        folder = None if self.folder is None else local_folder(self.folder, "folder of the answer cache")
        with _opening:
            store = _stores.get((self.cache, folder))
            if store is None:
                store = AnswerStore(None if folder is None else folder / f"{self.cache}.sqlite")
                _stores[self.cache, folder] = store
            return store


class Cached(NamedTuple):
    """Whether there was an answer, the answer (empty and not found where there was none), and the route."""

    cached: bool
    answer: Answer
    route: Literal["cached", "fresh"]


class AnswerCache(_Cache, name="orchestration.answer_cache"):
    """Look up whether a question of the same meaning was answered before.

        Route(AnswerCache(), cached=PassOn(), fresh=retrieve >> Generate() >> StoreAnswer())

    It was when the cosine of the two, by the collection's encoder, is at least `similarity`, and both name the same
    numbers and have the same metadata filter. Answers of another generation of the collection never count and are
    dropped, so that a changed collection is asked afresh. Follow-up questions must stand alone before (`HistoryQuery`).
    Raises DamagedFileError for a file that is no cache, ConfigError for a folder elsewhere. (GPTCache: Bang 2023, "An
    open-source semantic cache for LLM applications", NLP-OSS.)
    """

    similarity: float = Field(0.95, ge=0, le=1, description="least cosine to a question that was answered")

    def run(self, query: Query, collection: Collection) -> Cached:
        return self.run_batch([query], collection)[0]

    def run_batch(self, query: list[Query], collection: Collection) -> list[Cached]:
        store, scope = self.store(), _scopes(collection)
        vectors = collection.encoder.encode_queries([q.text for q in query])
        looked_up = []
        for q, vector in zip(query, vectors, strict=True):
            answer = store.find(scope(q), q, vector, self.similarity)
            if answer is None:
                looked_up.append(Cached(False, Answer("", found=False), "fresh"))
            else:
                looked_up.append(Cached(True, replace(answer, usage=Usage()), "cached"))
        return looked_up


class StoreAnswer(_Cache, name="orchestration.store_answer"):
    """Keep the answer to a question for `AnswerCache` with the same `cache` and `folder`.

    Answers that were not found are not kept. Beyond `size` the least recently used ones are dropped. The question is
    `query` as it is here: store where it still is what was looked up.
    """

    size: int = Field(1000, ge=1, le=1_000_000, description="answers that are kept at most")

    def run(self, query: Query, answer: Answer, collection: Collection) -> None:
        self.run_batch([query], [answer], collection)

    def run_batch(self, query: list[Query], answer: list[Answer], collection: Collection) -> list[None]:
        known = [(q, a) for q, a in zip(query, answer, strict=True) if a.found and a.text.strip()]
        if known:
            store, scope = self.store(), _scopes(collection)
            vectors = collection.encoder.encode_queries([q.text for q, _ in known])
            for (q, a), vector in zip(known, vectors, strict=True):
                store.put(scope(q), q, vector, a, self.size)
        return [None] * len(query)


def _scopes(collection: Collection) -> Callable[[Query], Scope]:
    """The scope of a query over the collection as it is now; one made anew in the same folder is another."""
    created = collection.info().created.isoformat()
    place = str(collection.path.resolve())
    version = f"{created} {collection.generation} {collection.encoder.fingerprint}"
    return lambda query: Scope(place, version, query.filter or "")
