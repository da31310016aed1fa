"""Models of relevance that lie in the folder of a collection."""

from __future__ import annotations

from rag.collection import Collection
from rag.errors import NotFoundError, did_you_mean
from rag.operators.post_retrieval.kept_models import KeptModels
from rag.relevance import RelevanceModel, load_models

__all__ = ["model_path", "relevance_model"]

_KEPT: KeptModels[dict[str, RelevanceModel]] = KeptModels(
    "relevance model", "relevance", load_models, "rag filter train"
)
model_path = _KEPT.path


def relevance_model(model: str, scorer: str, collection: Collection) -> RelevanceModel:
    """The model for the hits of a scorer: by name in the collection, or a .safetensors file below the working folder.

    Raises NotFoundError, DamagedFileError, ConfigError, and EncoderMismatchError when it was fitted to the vectors of
    another encoder.
    """
    path, loaded = _KEPT.found(model, collection)
    if scorer not in loaded:
        raise NotFoundError(
            f"{path} holds no relevance model for hits of {scorer!r}, only of {', '.join(loaded)}",
            hint=did_you_mean(scorer, loaded) or f"rag filter train {collection.path} --scorer {scorer}",
        )
    _KEPT.check(loaded[scorer].encoder, path, collection)
    return loaded[scorer]
