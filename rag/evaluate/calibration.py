"""How well the probabilities of each scorer hold, by cross-validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.evaluate.candidates import Candidates, fit_scorers
from rag.relevance import Recipe
from rag.relevance.measures import auroc, calibration_error, pr_auc
from rag.relevance.training import Progress

__all__ = ["ScorerFigures", "compare_scorers"]


@dataclass(frozen=True, eq=False)
class ScorerFigures:
    """A scorer on queries that its calibration was not fitted to; means over the parts.

    `raw`: area under the pooled precision-recall curve of its scores; `pr_auc`: of its probabilities; `ece`: their
    expected calibration error. `unanswerable`: AUROC of telling queries from the same ones with everything relevant
    taken out of the collection. `relevance` float32[m] and `labels` bool[m] are of all pairs, to draw reliability.
    """

    scorer: str
    raw: float
    pr_auc: float
    ece: float
    unanswerable: float
    relevance: NDArray[np.float32]
    labels: NDArray[np.bool_]


def compare_scorers(
    found: Candidates, *, recipe: Recipe | None = None, parts: int = 4, progress: Progress | None = None
) -> list[ScorerFigures]:
    """Calibrate every scorer, and "fused" where there are dense and BM25 hits, on all parts of the queries but one, and
    judge it by that. Raises what `rag.relevance.fit` raises."""
    order = np.random.default_rng((recipe or Recipe()).seed).permutation(len(found))
    said: dict[str, list[tuple[float, float, float, float, NDArray[np.float32], NDArray[np.bool_]]]] = {}
    for number, part in enumerate(np.array_split(order, parts)):
        if progress is not None:
            progress("calibrating", number, parts)
        models = fit_scorers(found.take(np.setdiff1d(order, part)), methods=("truncation",), recipe=recipe).models
        held, gone = (one for one in (found.take(part), found.take(part).without_relevant()))
        if "fused" in models:
            width = models["dense"].k
            held, gone = held.fused(models, width), gone.fused(models, width)
        for scorer, model in models.items():
            lists, method = held.lists(scorer), model.method("truncation")
            relevance = method.relevance(method.scorer(lists).values)[lists.mask]
            labels, had = lists.judged[lists.mask], lists.judged.any(axis=1)
            values = [model.answerable(each)[had] for each in (lists, gone.lists(scorer))]
            figures = (
                pr_auc(lists.masked(lists.scores), lists.judged),
                pr_auc(relevance[None], labels[None]),
                calibration_error(relevance, labels),
                auroc(*values),
            )
            said.setdefault(scorer, []).append((*figures, relevance, labels))
    made = []
    for scorer, rows in said.items():
        raw, area, ece, unanswerable = (float(mean) for mean in np.nanmean([row[:4] for row in rows], axis=0))
        relevance, labels = np.concatenate([row[4] for row in rows]), np.concatenate([row[5] for row in rows])
        made.append(ScorerFigures(scorer, raw, area, ece, unanswerable, relevance, labels))
    return made
