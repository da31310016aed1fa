"""Where relevance models lie: in the folder of the collection that they were trained for, or in a file of their own."""

from __future__ import annotations

from rag.operators.post_retrieval.kept_models import KeptModels
from rag.relevance import RelevanceModel, load_model

__all__ = ["model_path", "relevance_model"]

_KEPT: KeptModels[RelevanceModel] = KeptModels("relevance model", "relevance", load_model, "rag filter train")
model_path = _KEPT.path
relevance_model = _KEPT.model
