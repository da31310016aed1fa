"""A report on pipelines that are trained already, apart for questions near those they learned from and for others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag.encoders import Encoder
from rag.evaluate.datasets import Dataset
from rag.evaluate.report import Report
from rag.evaluate.significance import bootstrap
from rag.evaluate.splits import Extrapolation, Overlap, by_nearness, overlap

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Halves", "halves"]


@dataclass(frozen=True)
class Halves:
    """Ids of the test questions that are near a training question, and of the others; and what they have in common."""

    near: frozenset[str]
    far: frozenset[str]
    overlap: Overlap

    def of(self, values: Mapping[str, float]) -> Extrapolation:
        """Of the value of each question."""
        parts = ([v for query, v in values.items() if query in half] for half in (self.near, self.far))
        return Extrapolation(*(bootstrap(part) for part in parts))

    def as_json(self, report: Report) -> dict[str, Any]:
        """Overlap, and interpolation, extrapolation and drop of every run and measure, as JSON values."""
        found = {
            name: {
                measure: {"interpolation": part.interpolation, "extrapolation": part.extrapolation, "drop": part.drop}
                for measure, part in ((measure, self.of(values)) for measure, values in run.values.items())
            }
            for name, run in report.runs.items()
        }
        shared = {"questions": self.overlap.questions, "documents": self.overlap.documents, "near": self.overlap.near}
        return {"overlap": shared, "runs": found}

    def table(self, report: Report, baseline: str | None = None) -> Table:
        """A rich table; the baseline tells how much harder one half is by itself."""
        from rich.table import Table

        base = report.runs[baseline or next(iter(report.runs))]
        shared = self.overlap
        table = Table(
            title=f"near training questions ({len(self.near):,}) and far from them ({len(self.far):,})",
            caption=f"{shared.questions:.0%} of the questions have a training question at cosine {shared.near:g} or "
            f"nearer, {shared.documents:.0%} one with the same relevant document",
        )
        for heading in ("run", "measure", "interpolation", "extrapolation", "drop", "against the baseline"):
            table.add_column(heading, justify="left" if heading in ("run", "measure") else "right")
        for name, run in report.runs.items():
            for measure, values in run.values.items():
                own = self.of(values)
                cells = [f"{p.mean:.3f} ({p.low:.3f} to {p.high:.3f})" for p in (own.interpolation, own.extrapolation)]
                table.add_row(name, measure, *cells, f"{own.drop:.1%}", _ratios(own, self.of(base.values[measure])))
        return table


def halves(test: Dataset, trained_on: Dataset, encoder: Encoder) -> Halves:
    """Split the test questions by how near the nearest training question is; InputError for fewer than 100."""
    ids = list(test.queries)
    vectors = [encoder.encode_queries([query.text for query in part.queries.values()]) for part in (trained_on, test)]
    split = by_nearness(*vectors)
    relevant = [
        [frozenset(d for d, grade in part.qrels[query].items() if grade > 0) for query in part.queries]
        for part in (trained_on, test)
    ]
    near, far = (frozenset(ids[row] for row in rows) for rows in (split.interpolation, split.extrapolation))
    return Halves(near, far, overlap(vectors[0], vectors[1], relevant[0], relevant[1]))


def _ratios(own: Extrapolation, base: Extrapolation) -> str:
    pairs = (own.interpolation.mean, base.interpolation.mean), (own.extrapolation.mean, base.extrapolation.mean)
    return " and ".join(f"{a / b:.2f}x" if b else "-" for a, b in pairs)
