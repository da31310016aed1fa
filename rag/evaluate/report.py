"""What an evaluation found: values by query, tables, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any, NamedTuple

from rag.errors import NotFoundError, did_you_mean
from rag.evaluate.significance import Interval, bootstrap, holm, randomisation_test

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Comparison", "Report", "RunResult"]

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class RunResult:
    """What one run reached."""

    values: Mapping[str, Mapping[str, float]]
    """Measure -> query id -> value."""
    latencies: Mapping[str, float]
    """Query id -> seconds of the call that answered it."""
    seconds: float
    """All calls together."""

    def interval(self, measure: str) -> Interval:
        """The mean with its 95 % bootstrap interval."""
        return bootstrap(list(self.values[measure].values()))

    def mean(self, measure: str) -> float:
        """Over the queries; 0 where there are none."""
        return fmean(self.values[measure].values()) if self.values[measure] else 0.0

    @property
    def queries_per_second(self) -> float:
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def latency(self, percent: int) -> float:
        """The seconds within which this percentage (1 to 99) of the queries was answered."""
        times = list(self.latencies.values())
        return quantiles(times, n=100, method="inclusive")[percent - 1] if len(times) > 1 else sum(times)


class Comparison(NamedTuple):
    """A run against the baseline in one measure."""

    run: str
    measure: str
    mean: float
    difference: float
    low: float
    high: float
    """Ends of the 95 % bootstrap interval of the difference."""
    p: float
    """Of the paired randomisation test."""
    corrected: float
    """p corrected by Holm for all comparisons of the report."""

    @property
    def significant(self) -> bool:
        return self.corrected < SIGNIFICANT


@dataclass(frozen=True)
class Report:
    """Several runs over the same queries."""

    dataset: str
    split: str
    documents: int
    queries: tuple[str, ...]
    measures: tuple[str, ...]
    runs: Mapping[str, RunResult]

    def compare(self, baseline: str | None = None) -> list[Comparison]:
        """Every other run against the baseline (default: the first), in each measure that both have."""
        against = self._baseline(baseline)
        base = self.runs[against]
        pairs = [
            (run, measure)
            for run, result in self.runs.items()
            for measure in self.measures
            if run != against and measure in result.values and measure in base.values
        ]
        p_values, differences = [], []
        for run, measure in pairs:
            ours = self.runs[run].values[measure]
            theirs = [base.values[measure][query] for query in ours]
            p_values.append(randomisation_test(list(ours.values()), theirs))
            differences.append(bootstrap([a - b for a, b in zip(ours.values(), theirs, strict=True)]))
        return [
            Comparison(run, measure, self.runs[run].mean(measure), *difference, p, corrected)
            for (run, measure), difference, p, corrected in zip(
                pairs, differences, p_values, holm(p_values), strict=True
            )
        ]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One for each run and query: its measures and latency."""
        for name, run in self.runs.items():
            for query in self.queries:
                values = {m: by_query[query] for m, by_query in run.values.items() if query in by_query}
                yield {"run": name, "query": query, **values, "seconds": run.latencies[query]}

    def to_json(self, baseline: str | None = None) -> str:
        """All of it: means, comparisons, and the rows by query."""
        runs = {
            name: {
                "means": {measure: run.mean(measure) for measure in run.values},
                "intervals": {measure: run.interval(measure)[1:] for measure in run.values},
                "queries_per_second": run.queries_per_second,
                "latency_p50": run.latency(50),
                "latency_p95": run.latency(95),
            }
            for name, run in self.runs.items()
        }
        content = {
            "dataset": self.dataset,
            "split": self.split,
            "documents": self.documents,
            "queries": len(self.queries),
            "runs": runs,
            "baseline": self._baseline(baseline),
            "comparisons": [{**c._asdict(), "significant": c.significant} for c in self.compare(baseline)],
            "per_query": list(self.rows()),
        }
        return json.dumps(content, indent=1, ensure_ascii=False)

    def table(self, baseline: str | None = None, *, intervals: bool = False) -> Table:
        """A rich table; an arrow marks what is significantly above or below the baseline (p < 0.05 after Holm). With
        `intervals` each mean has its 95 % bootstrap interval."""
        from rich.table import Table

        against = self._baseline(baseline)
        marks = {(c.run, c.measure): ("▲" if c.difference > 0 else "▼") for c in self.compare(against) if c.significant}
        title = f"{self.dataset} ({self.split}): {len(self.queries):,} queries, {self.documents:,} documents"
        table = Table(title=title, caption=f"▲▼ against {against}, p < {SIGNIFICANT}" if len(self.runs) > 1 else None)
        table.add_column("run")
        for heading in (*self.measures, "queries/s", "p50 ms", "p95 ms"):
            table.add_column(heading, justify="right")
        for name, run in self.runs.items():
            cells = [
                f"{run.mean(measure):.3f}{_ends(run, measure) if intervals else ''}{marks.get((name, measure), ' ')}"
                if measure in run.values
                else ""
                for measure in self.measures
            ]
            times = [f"{run.queries_per_second:,.0f}", f"{run.latency(50) * 1e3:.2f}", f"{run.latency(95) * 1e3:.2f}"]
            table.add_row(name, *cells, *times)
        return table

    def _baseline(self, name: str | None) -> str:
        if name is None:
            return next(iter(self.runs))
        if name not in self.runs:
            raise NotFoundError(f"no run {name!r} to compare with", hint=did_you_mean(name, self.runs))
        return name


def _ends(run: RunResult, measure: str) -> str:
    _, low, high = run.interval(measure)
    return f" ({low:.3f} to {high:.3f})"
