"""Where relevance models lie: in the folder of the collection that they were trained for, or in a file of their own."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from rag.collection import Collection
from rag.errors import ConfigError, EncoderMismatchError, NotFoundError, did_you_mean
from rag.operators.local_file import local_file
from rag.relevance import RelevanceModel, load_models

__all__ = ["model_path", "relevance_model"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SUFFIX = ".safetensors"


def model_path(name: str, collection: Collection) -> Path:
    """The file of the model of this name in a collection; ConfigError for what is no name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name of a relevance model",
            hint="letters, digits, - and _; or a file that ends .safetensors",
        )
    return collection.path / "relevance" / (name + _SUFFIX)


def relevance_model(model: str, scorer: str, collection: Collection) -> RelevanceModel:
    """The model for the hits of a scorer: by name in the collection, or a .safetensors file below the working folder.

    It stays loaded as long as the file is the same. Raises NotFoundError, DamagedFileError, ConfigError, and
    EncoderMismatchError when it was fitted to the vectors of another encoder.
    """
    path = local_file(model, "relevance model") if model.endswith(_SUFFIX) else model_path(model, collection)
    try:
        status = path.stat()
        loaded = _load(path, status.st_mtime_ns, status.st_size, status.st_ino)
    except FileNotFoundError:
        loaded = load_models(path)  # says what to do
    if scorer not in loaded:
        raise NotFoundError(
            f"{path} holds no relevance model for hits of {scorer!r}, only of {', '.join(loaded)}",
            hint=did_you_mean(scorer, loaded) or f"rag filter train {collection.path} --scorer {scorer}",
        )
    found = loaded[scorer]
    if found.encoder != collection.encoder_fingerprint:
        raise EncoderMismatchError(
            f"the relevance model {path} was fitted to an encoder with fingerprint {found.encoder[:12]}, the vectors "
            f"of {collection.path} were made by one with {collection.encoder_fingerprint[:12]}",
            hint=f"rag filter train {collection.path}",
        )
    return found


@lru_cache(8)
def _load(path: Path, changed: int, size: int, inode: int) -> dict[str, RelevanceModel]:
    return load_models(path)
