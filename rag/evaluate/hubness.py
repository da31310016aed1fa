"""Which correction for hubs helps a collection, on questions of which it is known what answers them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.collection import Collection
from rag.errors import InputError
from rag.evaluate.judgements import LabelledQuery, Searched, searched
from rag.evaluate.significance import holm, randomisation_test
from rag.index.hubness import HubnessKind, HubReport, hub_report
from rag.index.hubness_file import ChosenKind, HubnessModel
from rag.index.neighbours import as_points
from rag.relevance.training import Progress

__all__ = ["HubStudy", "HubTrial", "study_hubs"]

DEPTH = 10
LEAST_QUERIES = 20
LEVEL = 0.05
NEIGHBOURS, ITEMS = 10, 2000
VARIANTS: tuple[tuple[ChosenKind, float], ...] = (
    ("none", 0.0),
    ("csls", 0.0),
    ("inverted_softmax", 5.0),
    ("inverted_softmax", 20.0),
    ("dual_softmax", 5.0),
    ("dual_softmax", 20.0),
    ("gallery_softmax", 20.0),
)


@dataclass(frozen=True, eq=False)
class HubTrial:
    """A kind of correction with its beta (0 where it has none), and what it did; "none" is the raw cosine.

    `ndcg` and `first` are means over the questions with a relevant candidate (None without such): nDCG@10, where 1 is
    the best order of the candidates, and how often the first hit is relevant. `apart` is the difference in nDCG@10 to
    "none" without the chunks that answer known questions, over the questions that these do not answer (None with fewer
    than 20 such); `p` the p-value of both differences, the larger of the two, corrected for all trials. `report` is
    that of the first ten hits, and `places` int64[h] how often those hubs are among them that are the largest under
    "none".
    """

    kind: ChosenKind
    beta: float
    ndcg: float | None
    first: float | None
    apart: float | None
    p: float
    report: HubReport
    places: NDArray[np.int64]

    @property
    def name(self) -> str:
        """The kind, with its beta."""
        return f"{self.kind} {self.beta:g}" if self.beta else self.kind


@dataclass(frozen=True, eq=False)
class HubStudy:
    """Trials on `queries` questions, `labelled` of them with a relevant candidate; the first is that of "none".

    `best` is the trial with the highest nDCG@10 of those that are better than "none" in both respects by more than
    chance (p < 0.05). It is "none" where there is none such, without labels, and when the questions were `made` of the
    chunks: what helps those may harm real ones. `vectors` float32[n, d] are those of the questions.
    """

    queries: int
    labelled: int
    made: bool
    trials: tuple[HubTrial, ...]
    best: HubTrial
    vectors: NDArray[np.float32]

    def model(self, encoder: str, seed: int = 0) -> HubnessModel:
        """All questions as a bank, with the best kind, and the best beta of each kind."""
        betas: dict[str, float] = {}
        for trial in sorted(self.trials, key=lambda trial: trial.ndcg or 0.0):
            if trial.beta:
                betas[trial.kind] = trial.beta
        about: dict[str, Any] = {"queries": self.queries, "labelled": self.labelled, "made": self.made}
        if self.labelled:
            about["ndcg"] = {trial.name: round(trial.ndcg, 4) for trial in self.trials if trial.ndcg is not None}
        queries = as_points(self.vectors, "cosine").astype(np.float16)
        return HubnessModel(encoder, queries, self.best.kind, betas, NEIGHBOURS, ITEMS, seed, about)


def study_hubs(
    collection: Collection,
    queries: list[LabelledQuery],
    k: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    made: bool = False,
) -> HubStudy:
    """Try all corrections on the k nearest chunks of each question: each half of them is corrected by the other half.

    So no question is corrected by itself, and known questions are to those asked what they will be to those that come.
    But labels may have as good as one question for each document: then what answers a known question
    never answers one that is asked, and to push it back seems to help. Hence the second look, without such chunks.
    Raises InputError with fewer than 20 questions.
    """
    if len(queries) < LEAST_QUERIES:
        raise InputError(f"{len(queries)} questions, a bank against hubs needs {LEAST_QUERIES}")
    found = searched(collection, queries, k, progress)
    halves = np.array_split(np.random.default_rng(seed).permutation(len(queries)), 2)
    answers = _known_answers(found, halves)
    had = found.labels.any(axis=1)
    alone = had & ~(found.labels & answers).any(axis=1)
    alone &= alone.sum() >= LEAST_QUERIES
    there, ids = found.ids >= 0, collection.chunk_ids()
    trials: list[HubTrial] = []
    raw = raw_apart = np.empty(0)
    for number, (kind, beta) in enumerate(VARIANTS):
        scores = found.scores if kind == "none" else _corrected(collection, found, halves, kind, beta, seed)
        order = _order(scores, there)
        top = np.take_along_axis(found.ids, order, axis=1)[:, :DEPTH]
        labels = np.take_along_axis(found.labels, order, axis=1)[had]
        without = _order(scores[alone], (there & ~answers)[alone])
        gains, apart = _ndcg(labels), _ndcg(np.take_along_axis(found.labels[alone], without, axis=1))
        report = hub_report(top, ids)
        if kind == "none":
            raw, raw_apart, hubs = gains, apart, report.hubs
        trials.append(
            HubTrial(
                kind,
                beta,
                float(gains.mean()) if had.any() else None,
                float(labels[:, 0].mean()) if had.any() else None,
                float((apart - raw_apart).mean()) if alone.any() else None,
                max(randomisation_test(gains, raw), randomisation_test(apart, raw_apart) if alone.any() else 0.0),
                report,
                (top == hubs[:, None, None]).sum(axis=(1, 2)),
            )
        )
        if progress is not None:
            progress("correcting", number + 1, len(VARIANTS))
    others = zip(trials[1:], holm([trial.p for trial in trials[1:]]), strict=True)
    trials[1:] = [replace(trial, p=p) for trial, p in others]
    return HubStudy(
        len(queries), int(had.sum()), made, tuple(trials), trials[0] if made else _best(trials), found.vectors
    )


def _best(trials: list[HubTrial]) -> HubTrial:
    """The best that is better than none by more than chance."""
    none = trials[0]
    better = [
        trial
        for trial in trials[1:]
        if trial.p < LEVEL and (trial.ndcg or 0.0) > (none.ndcg or 0.0) and (trial.apart is None or trial.apart > 0)
    ]
    return max(better, key=lambda trial: trial.ndcg or 0.0, default=none)


def _known_answers(found: Searched, halves: list[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """bool[n, k]: whether a candidate answers a question of the half that the query is corrected by."""
    answers = np.zeros(found.ids.shape, bool)
    for asked, known in (halves, halves[::-1]):
        answers[asked] = np.isin(found.ids[asked], found.ids[known][found.labels[known]])
    return answers


def _order(scores: NDArray[np.float32], there: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The candidates that are there, best first, and then the others."""
    return np.argsort(np.where(there, -scores, np.inf), axis=1, kind="stable")


def _corrected(
    collection: Collection, found: Searched, halves: list[NDArray[np.int64]], kind: HubnessKind, beta: float, seed: int
) -> NDArray[np.float32]:
    """The scores of each half, less the biases by the other half's questions."""
    scores = found.scores.copy()
    for asked, known in (halves, halves[::-1]):
        bank = as_points(found.vectors[known], "cosine").astype(np.float16)
        model = HubnessModel("", bank, kind, {kind: beta or 1.0}, NEIGHBOURS, ITEMS, seed, {})
        items = collection.vectors(model.sample(collection.chunk_ids(), kind))
        there = found.ids[asked] >= 0
        chunks, where = np.unique(found.ids[asked][there], return_inverse=True)
        part = scores[asked]
        part[there] -= model.banks(kind, items).bias(collection.vectors(chunks))[where]
        scores[asked] = part
    return scores


def _ndcg(labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """nDCG@10 float64[n] of labels bool[n, k] in their order, each row with a True."""
    gains = 1 / np.log2(np.arange(2, DEPTH + 2))[: labels.shape[1]]
    ideal = np.cumsum(gains)[np.minimum(labels.sum(axis=1), len(gains)) - 1]
    return np.asarray(labels[:, :DEPTH] @ gains / ideal)
