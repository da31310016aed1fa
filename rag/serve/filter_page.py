"""The report on relevance filters as one HTML page without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from rag.evaluate.calibration import ScorerFigures
from rag.evaluate.relevance import Comparison, MethodFigures
from rag.relevance import Method
from rag.relevance.measures import reliability
from rag.relevance.thresholds import ranked_pairs
from rag.serve.drawing import bars, curves

__all__ = ["COLUMNS", "SCORER_COLUMNS", "cells", "filter_page", "scorer_cells"]

COLUMNS = ("method", "PR AUC", "cut@", "recall", "prec.", "cut", "null", "MRR", "hurt", "AUROC", "ECE")
"""Headings of the table, for the fields of `MethodFigures`; `cut@` is followed by the recall that is kept."""
_LEGEND = (
    "PR AUC: area under the pooled precision-recall curve. cut@: candidates removed where just that recall is kept. "
    "Then what a threshold did that was set on other queries: recall, precision, candidates removed, queries left with "
    "nothing, mean reciprocal rank, queries that lost something relevant. AUROC: telling queries from the same ones "
    "with everything relevant removed. ECE: expected calibration error."
)

SCORER_COLUMNS = ("scorer", "PR AUC raw", "calibrated", "ECE", "AUROC nothing")
"""Headings of the table of scorers."""
_SCORER_LEGEND = (
    "Each scorer by its scores and by its calibrated probabilities, of queries that were held out. AUROC nothing: "
    "telling by the whole list queries from the same ones with everything relevant taken out."
)

_PLAIN: Method = "platt"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;color:#212529}"
    "table{border-collapse:collapse}td,th{padding:.2em .7em;text-align:right}th{color:#868e96;font-weight:normal}"
    "td:first-child,th:first-child{text-align:left}tr.best{font-weight:bold;background:#ebfbee}svg{margin:.5em}"
)


def cells(figures: MethodFigures) -> list[str]:
    """A row of the table."""
    f = figures
    shares = (f.filtered_at, f.recall, f.precision, f.filtered, f.null, f.mrr, f.damaged, f.unanswerable)
    return [f.method, f"{f.pr_auc:.3f}", *(f"{share:.3f}" for share in shares), f"{f.ece:.4f}"]


def scorer_cells(figures: ScorerFigures) -> list[str]:
    """A row of the table of scorers."""
    f = figures
    return [f.scorer, f"{f.raw:.3f}", f"{f.pr_auc:.3f}", f"{f.ece:.4f}", f"{f.unanswerable:.3f}"]


def filter_page(title: str, found: Comparison, scorers: Sequence[ScorerFigures]) -> str:
    """Tables, score histograms before and after, precision-recall curves, threshold sweep and reliability."""
    lists, labels = found.lists, found.lists.judged
    there, best = lists.mask, found.relevance[found.recommended]
    kinds = {"not relevant": there & ~labels, "relevant": labels}
    scores = lists.scores[there]
    low, high = float(scores.min(initial=0)), float(scores.max(initial=1))
    pictures = [
        bars("Scores before", {n: lists.scores[m] for n, m in kinds.items()}, "cosine", (low, high)),
        bars(
            f"Relevance after: {found.recommended}",
            {name: _log_odds(best[kind]) for name, kind in kinds.items()},
            "log-odds of being relevant",
            (-9, 5),
        ),
        curves("Precision and recall", {name: _pr(found, name) for name in found.relevance}, "recall", "precision"),
        _sweep(found),
        _calibration(found),
        _calibration_of(scorers),
    ]
    rows = "".join(
        f"<tr{' class=best' if one.method == found.recommended else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells(one))
        + "</tr>"
        for one in found.figures
    )
    heads = "".join(
        f"<th>{escape(h + (f'{found.target_recall:.0%}' if h.endswith('@') else ''))}</th>" for h in COLUMNS
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1><p>{found.queries} queries with {found.relevant} relevant among {found.candidates} "
        f"candidates; every figure is of queries that were held out. Recommended: <b>{found.recommended}</b>.</p>"
        f"<table><tr>{heads}</tr>{rows}</table><p><small>{_LEGEND}</small></p>"
        f"<table>{_scorer_rows(scorers)}</table><p><small>{_SCORER_LEGEND}</small></p>"
        f"<p>{''.join(pictures)}</p></html>\n"
    )


def _log_odds(chances: NDArray[np.float32]) -> NDArray[np.float32]:
    inside = np.clip(chances, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inside / (1 - inside)))


def _pr(found: Comparison, name: Method) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision of all held-out pairs, by falling relevance."""
    values = np.where(found.lists.mask, found.relevance[name], np.float32(-np.inf))
    _, hits, kept = ranked_pairs(values, found.lists.judged)
    return hits / max(int(hits[-1]), 1), hits / kept


def _sweep(found: Comparison) -> str:
    """What each threshold of the recommended method gives."""
    values = np.where(found.lists.mask, found.relevance[found.recommended], np.float32(-np.inf))
    threshold, hits, kept = ranked_pairs(values, found.lists.judged)
    lines = {
        "recall": (threshold, hits / max(int(hits[-1]), 1)),
        "precision": (threshold, hits / kept),
        "filtered": (threshold, 1 - kept / kept[-1]),
    }
    return curves(f"Thresholds: {found.recommended}", lines, "least relevance", "share")


def _calibration(found: Comparison) -> str:
    """How often what is called relevant with a probability is so."""
    there = found.lists.mask
    lines = {"perfect": (np.array([0.0, 1.0]), np.array([0.0, 1.0]))}
    for name in sorted({found.recommended, _PLAIN}):
        if name in found.relevance:
            mean, share, _ = reliability(found.relevance[name][there], found.lists.judged[there], 30)
            lines[name] = (mean, share)
    return curves("Reliability", lines, "relevance", "share that is relevant")


def _calibration_of(scorers: Sequence[ScorerFigures]) -> str:
    """The same for the calibration of each scorer."""
    lines = {"perfect": (np.array([0.0, 1.0]), np.array([0.0, 1.0]))}
    for one in scorers:
        mean, share, _ = reliability(one.relevance, one.labels, 30)
        lines[one.scorer] = (mean, share)
    return curves("Reliability of scorers", lines, "relevance", "share that is relevant")


def _scorer_rows(scorers: Sequence[ScorerFigures]) -> str:
    heads = "".join(f"<th>{escape(heading)}</th>" for heading in SCORER_COLUMNS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in scorer_cells(one)) + "</tr>" for one in scorers
    )
    return f"<tr>{heads}</tr>{rows}"
