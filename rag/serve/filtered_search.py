"""Search of which only what is relevant is left, where a collection holds the models for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag.collection import Collection
    from rag.operators import Flow
    from rag.serve.asking import Retriever

__all__ = ["filtered_search"]

_LET_THROUGH = 0.95
_K = 100
"""Hits of a list that is judged, as many as `rag filter train` takes."""


def filtered_search(collection: Collection, by: Retriever, recall: float | None) -> Flow | None:
    """The flow that finds chunks in one of these ways and keeps what is relevant, as the collection's model `default`
    says; None when it has none for that way.

    A model that learned from questions made of the chunks, which are easier than real ones, may say that nothing is
    relevant, but does not take the hits away.
    """
    from rag.operators.post_retrieval import Calibrate, RelevanceFilter
    from rag.operators.post_retrieval.relevance_files import model_path
    from rag.operators.retrieval import BM25, Dense, Fuse
    from rag.relevance import load_models
    from rag.serve.asking import Retriever, retrieve

    path = model_path("default", collection)
    scorer = "fused" if by is Retriever.hybrid else by.value
    model = load_models(path).get(scorer) if path.is_file() else None
    if model is None:
        return None
    kept = _K if model.about.get("synthetic") else 0
    keep = RelevanceFilter(scorer=scorer, target_answered=_LET_THROUGH, min_keep=kept)
    if by is not Retriever.hybrid:
        return retrieve(by, _K, recall) >> keep
    dense = Dense(k=_K) if recall is None else Dense(k=_K, recall=recall)
    both = dense >> Calibrate(scorer="dense") | BM25(k=_K) >> Calibrate(scorer="bm25")
    return both >> Fuse(method="probability", k=_K) >> keep
