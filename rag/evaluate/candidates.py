"""What every scorer of a collection finds for labelled queries, and relevance models of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.collection import Collection
from rag.errors import ConfigError, InputError
from rag.evaluate.judgements import LabelledQuery, relevant_chunks
from rag.operators.post_retrieval.calibrate import calibrated
from rag.operators.post_retrieval.score_lists import score_lists
from rag.operators.retrieval import BM25, Dense, EmbedQuery, Fuse, MultiVector
from rag.relevance import METHODS, CandidateLists, Method, Recipe, RelevanceModel, fit
from rag.relevance.model import ADAPTERS
from rag.relevance.training import Progress
from rag.types import Hits, Query

__all__ = ["FUSED", "Candidates", "Find", "FittedScorers", "find_candidates", "fit_scorers", "scorers_of"]

Find: TypeAlias = Callable[[Sequence[Query]], Sequence[Hits]]
"""From a batch of queries to the hits of each, best first."""

FUSED = ("dense", "bm25")
"""Whose calibrated hits `Fuse("probability")` joins into those of the scorer "fused"."""

_BLOCK = 256


@dataclass(frozen=True, eq=False)
class Candidates:
    """Labelled queries with the hits of each scorer for them, and the ids of the chunks that are relevant."""

    collection: Collection
    queries: list[Query]
    relevant: list[NDArray[np.int64]]
    hits: Mapping[str, list[Hits]]

    def __len__(self) -> int:
        """Queries."""
        return len(self.queries)

    def take(self, rows: NDArray[np.int64]) -> Candidates:
        """Those of some queries."""
        hits = {scorer: [own[row] for row in rows] for scorer, own in self.hits.items()}
        return replace(
            self, queries=[self.queries[r] for r in rows], relevant=[self.relevant[r] for r in rows], hits=hits
        )

    def lists(self, scorer: str) -> CandidateLists:
        """The scores of a scorer's hits with their labels and the embeddings of the queries."""
        return self._labelled(scorer, self.hits[scorer])

    def without_relevant(self) -> Candidates:
        """The same as if what is relevant had never been in the collection."""
        hits = {
            scorer: [h.take(~np.isin(h.ids, gone)) for h, gone in zip(own, self.relevant, strict=True)]
            for scorer, own in self.hits.items()
        }
        return replace(self, hits=hits)

    def fused(self, models: Mapping[str, RelevanceModel], k: int) -> Candidates:
        """With the scorer "fused" besides: dense and BM25 hits joined by the probabilities that these models say."""
        made = [calibrated(self.queries, self.hits[one], models[one], self.collection) for one in FUSED]
        fuse = Fuse(method="probability", k=k)
        return replace(self, hits={**self.hits, "fused": [fuse.run(list(each)) for each in zip(*made, strict=True)]})

    def _labelled(self, scorer: str, hits: list[Hits]) -> CandidateLists:
        table = score_lists(self.queries, hits, scorer, self.collection, vectors=scorer == "dense")
        labels = np.zeros(table.lists.scores.shape, bool)
        for row, own in enumerate(hits):
            found = np.isin(own.ids, self.relevant[row])
            labels[row, : len(own)] = found[table.unsorted[row]] if row in table.unsorted else found
        return replace(table.lists, labels=labels)


def scorers_of(collection: Collection, k: int) -> dict[str, Find]:
    """Dense and BM25 search for k chunks, and late interaction where the collection has token vectors."""
    made: dict[str, Find] = {
        "dense": lambda queries: Dense(k=k).run_batch(list(queries), collection),
        "bm25": lambda queries: BM25(k=k).run_batch(list(queries), collection),
    }
    if collection.has_tokens:
        made["maxsim"] = lambda queries: MultiVector(k=k).run_batch(list(queries), collection)
    return made


def find_candidates(
    collection: Collection,
    queries: list[LabelledQuery],
    scorers: Mapping[str, Find],
    progress: Progress | None = None,
) -> Candidates:
    """Search for labelled queries by each of these scorers.

    Raises InputError when the collection is empty or has none of the documents that are labelled, ConfigError for dense
    hits where it does not score by cosine.
    """
    if "dense" in scorers and collection.metric != "cosine":
        raise ConfigError(
            f"relevance filters read cosines, and {collection.path} scores by {collection.metric!r}",
            hint="index into a collection with metric 'cosine'",
        )
    if not len(collection):
        raise InputError(f"{collection.path} holds nothing to search in", hint=f"rag index {collection.path} PATH")
    relevant = relevant_chunks(collection, queries)
    embed = EmbedQuery(tokens="maxsim" in scorers)
    asked: list[Query] = []
    hits: dict[str, list[Hits]] = {scorer: [] for scorer in scorers}
    for start in range(0, len(queries), _BLOCK):
        block = embed.run_batch([Query(query.text) for query in queries[start : start + _BLOCK]], collection)
        asked += block
        for scorer, find in scorers.items():
            hits[scorer] += find(block)
        if progress is not None:
            progress("searching", len(asked), len(queries))
    return Candidates(collection, asked, relevant, hits)


class FittedScorers(NamedTuple):
    """Models by the names of scorers, the candidates they were fitted to, and why other scorers were left out."""

    models: dict[str, RelevanceModel]
    found: Candidates
    left_out: dict[str, str]


def fit_scorers(
    found: Candidates,
    *,
    methods: Sequence[Method] = METHODS,
    recipe: Recipe | None = None,
    synthetic: bool = False,
    progress: Progress | None = None,
) -> FittedScorers:
    """A model for each scorer, and for "fused" where there are dense and BM25 hits.

    `synthetic` says that the queries were made of the chunks, and is kept in what the models tell about themselves.

    Adapters are fitted to dense hits alone; the other methods need no torch. A further scorer that finds nothing to
    learn from, such as one that found what is relevant and nothing else, is left out; for the first one that raises
    what `fit` raises.
    """
    made: dict[str, RelevanceModel] = {}
    left_out: dict[str, str] = {}

    def add(scorer: str) -> None:
        try:
            model = fit(
                found.lists(scorer),
                encoder=found.collection.encoder_fingerprint,
                scorer=scorer,
                methods=[m for m in methods if scorer == "dense" or m not in ADAPTERS],
                recipe=recipe or Recipe(),
                progress=progress,
            )
        except InputError as error:
            if not made:
                raise
            left_out[scorer] = error.message
        else:
            made[scorer] = replace(model, about={**model.about, "synthetic": synthetic})

    for scorer in found.hits:
        add(scorer)
    if all(one in made for one in FUSED):
        found = found.fused(made, made["dense"].k)
        add("fused")
    return FittedScorers(made, found, left_out)
