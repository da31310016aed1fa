"""Hits in the order of a cross-encoder."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from rag.errors import MissingExtraError, ModelError
from rag.operators.base import Operator
from rag.types import Hits, Query

__all__ = ["Rerank"]


class Rerank(Operator, name="post_retrieval.rerank", waits=True):
    """Reorder hits by a cross-encoder, which reads question and chunk together.

    Scores become the model's own. The pairs of all queries of a batch are scored together. Models stay
    loaded, two at most; a name is looked up on the Hugging Face hub, a folder is read as it is. Raises
    MissingExtraError without sentence-transformers, ModelError when the model cannot be loaded or does not give one
    score a pair. (Nogueira and Cho 2019, arXiv:1901.04085.)
    """

    model: str = Field(
        "cross-encoder/ms-marco-MiniLM-L6-v2", min_length=1, description="name on the hub, or folder, of the model"
    )
    k: int = Field(8, ge=1, le=10_000, description="hits to keep")
    depth: int = Field(100, ge=1, le=10_000, description="hits from the top that are scored; further ones are left out")
    batch_size: int = Field(32, ge=1, le=1024, description="pairs scored at the same time")
    max_tokens: int = Field(512, ge=8, le=32768, description="tokens of question and chunk together; the rest is cut")

    def run(self, query: Query, hits: Hits) -> Hits:
        return self.run_batch([query], [hits])[0]

    def run_batch(self, query: list[Query], hits: list[Hits]) -> list[Hits]:
        judged = [h.top(self.depth) for h in hits]
        pairs = [(q.text, chunk.text) for q, h in zip(query, judged, strict=True) for chunk in h.chunks()]
        if not pairs:
            return judged
        with _loading:
            loaded = _load(self.model, self.max_tokens)
        with loaded.lock:
            scores = np.asarray(
                loaded.model.predict(pairs, batch_size=self.batch_size, show_progress_bar=False), np.float32
            )
        if scores.shape != (len(pairs),):
            raise ModelError(
                f"{self.model} gives {scores.shape} scores for {len(pairs)} pairs", hint="use a model with one label"
            )
        ends = np.cumsum([len(h) for h in judged])[:-1]
        return [h.with_scores(own).top(self.k) for h, own in zip(judged, np.split(scores, ends), strict=True)]

    def limited(self, k: int) -> Rerank:
        """This, keeping no more than k."""
        return self.model_copy(update={"k": min(self.k, k)})


class _Loaded(NamedTuple):
    model: Any
    lock: threading.Lock  # tokenizers refuse to be used by two threads at once


_loading = threading.Lock()  # so that parallel branches load a model once


@lru_cache(2)
def _load(name: str, max_tokens: int) -> _Loaded:
    try:
        from sentence_transformers import CrossEncoder
    except ImportError:
        raise MissingExtraError("rerank by a cross-encoder", "local") from None
    try:
        return _Loaded(CrossEncoder(name, max_length=max_tokens), threading.Lock())
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"the cross-encoder {name!r} cannot be loaded: {error}",
            hint="name a folder with its files, or a model on the Hugging Face hub that can be reached",
        ) from error
