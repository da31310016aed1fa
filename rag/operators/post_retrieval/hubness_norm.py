"""Hits whose cosines are put right for hubs: chunks that are near to far too many questions."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rag.errors import ConfigError, InputError
from rag.index.hubness import HubnessBanks, HubnessKind
from rag.index.hubness_file import HubnessModel, load_hubness
from rag.operators.base import Operator
from rag.operators.post_retrieval.kept_models import KeptModels
from rag.operators.resources import Collection, check_one_collection
from rag.types import Hits

__all__ = ["HubnessNorm", "hubness_path"]

_KEPT: KeptModels[HubnessModel] = KeptModels("bank against hubs", "hubness", load_hubness, "rag hubs train")
hubness_path = _KEPT.path

_REMEMBERED = 1 << 18
"""Chunks whose bias is remembered, of one collection and model: some 25 MB."""
_LARGEST = 1.01
"""A cosine of vectors that were rounded when they were kept."""


class HubnessNorm(Operator, name="post_retrieval.hubness_norm", waits=True):
    """Reorder hits by cosine minus bias, where the bias of a chunk tells how near it is to known questions.

    Chunks that are near to most questions (hubs) lose, others gain. Made for the hits of `Dense`, more of them than are
    wanted in the end, since it only reorders what was found; the cosine stays in the column `score_raw`. The known
    questions are those that `rag hubs train` keeps in the collection, which also tells whether a correction helps:
    with `best` nothing is changed where none is known to.

    Kinds: `csls` (half the mean cosine with the nearest known questions; Lample et al., ICLR 2018), `inverted_softmax`
    (Smith et al., ICLR 2017), `gallery_softmax` (by a sample of the chunks), `dual_softmax` (both banks; Wang et al.,
    EMNLP 2023). `dynamic` corrects a question only when its first hit is the nearest chunk of a known one (QB-Norm,
    Bogolin et al., CVPR 2022); scores of questions that were corrected and that were not do not compare.

    A bias is computed when a chunk is first hit, and remembered. Raises NotFoundError without the file,
    EncoderMismatchError for that of another encoder, ConfigError for a collection that does not score by cosine,
    InputError for scores that are no cosines or no numbers.
    """

    model: str = Field(
        "default", description="name of what `rag hubs train` kept in the collection, or a .safetensors file"
    )
    kind: Literal["best", "csls", "inverted_softmax", "gallery_softmax", "dual_softmax"] = Field(
        "best", description="how the bias is computed; best: what helped when it was trained, which may be nothing"
    )
    dynamic: bool = Field(False, description="leave questions alone whose first hit is no known question's first hit")

    def run(self, hits: Hits, collection: Collection) -> Hits:
        return self.run_batch([hits], collection)[0]

    def run_batch(self, hits: list[Hits], collection: Collection) -> list[Hits]:
        if collection.metric != "cosine":
            raise ConfigError(
                f"hubs are corrected in cosines, and {collection.path} scores by {collection.metric!r}",
                hint="index into a collection with metric 'cosine'",
            )
        check_one_collection(hits, collection)
        path, model = _KEPT.found(self.model, collection)
        _KEPT.check(model.encoder, path, collection)
        kind = model.best if self.kind == "best" else self.kind
        raw = [own.with_columns(score_raw=_cosines(own, row)) for row, own in enumerate(hits)]
        if kind == "none":
            return raw
        correction = _correction(model, kind, collection.fingerprint)
        hubs = correction.hubs(collection) if self.dynamic else None
        treated = [
            row
            for row, own in enumerate(raw)
            if len(own) and (hubs is None or int(own.ids[own.scores.argmax()]) in hubs)
        ]
        if treated:
            biases = correction.biases(np.concatenate([raw[row].ids for row in treated]), collection)
            ends = np.cumsum([len(raw[row]) for row in treated])[:-1]
            for row, bias in zip(treated, np.split(biases, ends), strict=True):
                raw[row] = raw[row].with_scores(raw[row].scores - bias)
        return raw


class _Correction:
    """Biases of the chunks of one generation by one model, each computed once. Safe to use from several threads."""

    def __init__(self, model: HubnessModel, kind: HubnessKind) -> None:
        self._model, self._kind = model, kind
        self._banks: HubnessBanks | None = None
        self._biases: dict[int, float] = {}
        self._hubs: frozenset[int] | None = None
        self._lock = threading.Lock()

    def biases(self, ids: NDArray[np.int64], collection: Collection) -> NDArray[np.float32]:
        """float32[n] of chunks int64[n]."""
        wanted = ids.tolist()
        known = self._biases
        try:
            return np.array([known[chunk] for chunk in wanted], np.float32)
        except KeyError:
            missing = np.array(sorted({chunk for chunk in wanted if chunk not in known}), np.int64)
        with self._lock:
            if self._banks is None:
                items = self._model.sample(collection.chunk_ids(), self._kind)
                self._banks = self._model.banks(self._kind, collection.vectors(items))
            fresh = dict(zip(missing.tolist(), self._banks.bias(collection.vectors(missing)).tolist(), strict=True))
            if len(self._biases) + len(fresh) > _REMEMBERED:
                self._biases = {}
            self._biases.update(fresh)
        return np.array([fresh[chunk] if chunk in fresh else known[chunk] for chunk in wanted], np.float32)

    def hubs(self, collection: Collection) -> frozenset[int]:
        """The chunks that are nearest to a known question."""
        with self._lock:
            if self._hubs is None:
                found = collection.search_dense(self._model.queries.astype(np.float32), 1)
                self._hubs = frozenset(int(hits.ids[0]) for hits in found if len(hits))
            return self._hubs


@lru_cache(8)
def _correction(model: HubnessModel, kind: HubnessKind, generation: str) -> _Correction:
    return _Correction(model, kind)


def _cosines(hits: Hits, row: int) -> NDArray[np.float32]:
    """The scores, when all are cosines."""
    scores = hits.scores
    if not (np.abs(scores) <= _LARGEST).all():
        place = int(np.argmin(np.abs(scores) <= _LARGEST))
        raise InputError(
            f"hit {place} of query {row} has the score {scores[place]:g}, which is no cosine",
            hint="correct for hubs right after the dense search, before hits are fused or reranked",
        )
    return scores
