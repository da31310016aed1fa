"""From what was found to what it names."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rag.graphs.extract.phrases import name_key, phrases
from rag.operators.base import Operator
from rag.operators.resources import Collection, check_one_collection
from rag.operators.retrieval.fuse import to_unit
from rag.operators.retrieval.search import both_hold
from rag.types import Hits, Query

__all__ = ["FollowNames"]


class FollowNames(Operator, name="retrieval.follow_names"):
    """Add and raise the documents whose titles the best hits name: one step along the links of a text, or several.

    For questions whose evidence lies in several documents: the first one names what the next one is about. Names are
    runs of words with capitals; a document is known by its metadata field `field`, without case, what stands in
    parentheses, and stop words at its beginning. Scores are brought to 0..1; a document that is named gains `weight`
    times the score of the best hit that names it, divided by the number of documents with that title. Of a document
    of several chunks the best that is among the hits gains, else its first one joins them. The only column,
    `named_by`, is the id of the chunk that gave the gain, or -1.

    No language model, and no graph that has to be built first: titles are read once for each state of a collection.
    What joins the hits passes `filter` and the query's own. Raises InputError for hits of another collection,
    ConfigError for a wrong filter.
    """

    follow: int = Field(5, ge=1, le=1000, description="best hits that are read for names")
    weight: float = Field(0.5, ge=0, description="gain of a document that the best hit names")
    hops: int = Field(1, ge=1, le=4, description="steps; each reads the best hits after the one before")
    field: str = Field("title", min_length=1, description="metadata field that says what a document is about")
    filter: str | None = Field(None, description="metadata expression that what is followed to has to pass")
    k: int | None = Field(None, ge=1, description="hits to keep; all when left out")

    def run(self, hits: Hits, query: Query | None = None, *, collection: Collection) -> Hits:
        check_one_collection([hits], collection)
        if not len(hits):
            return hits
        titles = _titles(collection, self.field)
        where = both_hold(self.filter, query.filter if query else None)
        allowed = None if where is None else set(collection.select(where).tolist())
        found = {int(chunk): float(score) for chunk, score in zip(hits.ids, to_unit(hits.scores), strict=True)}
        read: dict[int, dict[int, float]] = {}
        total = dict(found)
        for _ in range(self.hops):
            best = sorted(total, key=lambda chunk: (-total[chunk], chunk))[: self.follow]
            new = [chunk for chunk in best if chunk not in read]
            for chunk in collection.chunks(new):
                read[chunk.id] = titles.named_in(chunk.text, chunk.document)
            gains: dict[int, float] = {}
            named_by: dict[int, int] = {}
            for source, names in read.items():
                for document, share in names.items():
                    target = titles.chunk(document, found, allowed)
                    gain = self.weight * total[source] * share
                    if target is not None and gain > gains.get(target, 0.0):
                        gains[target], named_by[target] = gain, source
            total = {chunk: found.get(chunk, 0.0) + gains.get(chunk, 0.0) for chunk in found.keys() | gains.keys()}
        order = sorted(total, key=lambda chunk: (-total[chunk], chunk))[: self.k]
        ids = np.array(order, np.int64)
        scores = np.array([total[chunk] for chunk in order], np.float32)
        sources = np.array([named_by.get(chunk, -1) for chunk in order], np.int64)
        return Hits(ids, scores, {"named_by": sources}, store=collection)


@dataclass(frozen=True)
class _Titles:
    """Documents by the keys of their titles, and the chunks of each, int64, ascending."""

    documents: dict[str, list[int]]
    numbers: dict[str, int]
    chunks: list[NDArray[np.int64]]

    def named_in(self, text: str, own: str) -> dict[int, float]:
        """Documents that a text names, without its own, and the share of the name that each has."""
        shares: dict[int, float] = {}
        for key in {phrase.key for phrase in phrases(text)}:
            others = self.documents.get(key, ())
            for document in others:
                if document != self.numbers[own]:
                    shares[document] = max(shares.get(document, 0.0), 1 / len(others))
        return shares

    def chunk(self, document: int, found: dict[int, float], allowed: set[int] | None) -> int | None:
        """The best of a document's chunks that were found, or the first that is allowed."""
        chunks: list[int] = self.chunks[document].tolist()
        if here := [chunk for chunk in chunks if chunk in found]:
            return max(here, key=lambda chunk: found[chunk])
        return next((chunk for chunk in chunks if allowed is None or chunk in allowed), None)


_read: WeakKeyDictionary[Collection, dict[str, tuple[int, _Titles]]] = WeakKeyDictionary()


def _titles(collection: Collection, field: str) -> _Titles:
    kept = _read.setdefault(collection, {})
    generation = collection.generation
    if field not in kept or kept[field][0] != generation:
        kept[field] = generation, _index(collection, field)
    return kept[field][1]


def _index(collection: Collection, field: str) -> _Titles:
    ids, owners = collection.metadata("document")
    _, own = collection.metadata(field)
    documents: dict[str, list[int]] = {}
    starts = np.flatnonzero(np.diff(owners.codes, prepend=-1))
    for number, start in enumerate(starts.tolist()):
        title = own.values[own.codes[start]]
        if isinstance(title, str) and (key := name_key(title)):
            documents.setdefault(key, []).append(number)
    numbers = {str(owners.values[owners.codes[start]]): number for number, start in enumerate(starts.tolist())}
    return _Titles(documents, numbers, np.split(ids, starts[1:]))
