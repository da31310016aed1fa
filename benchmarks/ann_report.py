"""Rows, tables and plots out of measured curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import harness
from ann_sweep import Curve, Measured, best

RECALLS = (0.90, 0.95, 0.99)
REFERENCES = ("hnswlib", "SymphonyQG")
"""The peers by which bytes and build times are judged."""

Result: TypeAlias = dict[str, Any]
"""A data set: its `shape`, the `machine` and settings (`how`), and `indexes`, a list of `Measured`."""


def read(file: Path) -> dict[str, Result]:
    """Results by data set, of earlier runs."""
    if not file.exists():
        return {}
    held: dict[str, Result] = json.loads(file.read_text())
    return {n: {**r, "indexes": [Measured.read(m) for m in r["indexes"]]} for n, r in held.items()}


def write(file: Path, results: dict[str, Result]) -> None:
    """The same, rounded to what was measured."""
    held = {n: {**r, "indexes": [m.json() for m in r["indexes"]]} for n, r in results.items()}
    rounded = json.loads(json.dumps(held), parse_float=lambda text: float(f"{float(text):.5g}"))
    file.write_text(json.dumps(rounded, indent=1) + "\n")


def blocks(result: Result) -> list[tuple[str, str, int]]:
    """Kinds of query, modes and threads that were measured."""
    return list(dict.fromkeys((c.kind, c.mode, c.threads) for m in result["indexes"] for c in m.curves))


def rows(
    name: str, result: Result, recalls: Sequence[float] = RECALLS, references: Sequence[str] = REFERENCES
) -> Iterator[harness.Row]:
    """Our best against the best peer at each recall; then bytes and build time of ours at 0.95 against `references`."""
    ours = [m for m in result["indexes"] if m.ours]
    peers = [m for m in result["indexes"] if not m.ours]
    for kind, mode, threads in blocks(result):
        case = f"{name}, {kind}, {mode}"
        for recall in recalls:
            left, right = (best(side, kind, mode, threads, recall) for side in (ours, peers))
            if left and right:
                peer = (right[0].name, right[0].version)
                where, metric = f"{case} ({left[0].name})", f"qps@{recall:.2f}"
                yield harness.compare(where, metric, "q/s", left[1], peer, right[1], threads)
        left = best(ours, kind, mode, threads, 0.95)
        if mode == "single" and left:
            for peer_index in (m for m in peers if m.name in references):
                peer = (peer_index.name, peer_index.version)
                for metric, unit, part in (("bytes", "bytes a vector", "bytes"), ("build_s", "CPU s", "build_cpu_s")):
                    mine, theirs = left[0].build[part], peer_index.build[part]
                    where = f"{case} ({left[0].name}), best at 0.95"
                    yield harness.compare(where, metric, unit, mine, peer, theirs, threads, more=False)


def tables(name: str, result: Result, recalls: Sequence[float] = RECALLS) -> Iterator[str]:
    """Every index, for each kind of query: what the build cost, and its speed at each recall."""
    for kind in dict.fromkeys(kind for kind, _, _ in blocks(result)):
        modes = [(mode, threads) for k, mode, threads in blocks(result) if k == kind]
        yield from (f"## {name}, queries {kind}", "", f"{result['shape']}. {result['how']}", "")
        heads = [f"{mode} {threads}T @{r:.2f}" for mode, threads in modes for r in recalls]
        columns = ["index", "build CPU s", "build wall s", "bytes a vector", *heads, "highest recall"]
        yield "| " + " | ".join(columns) + " |"
        yield "|" + "---|" * len(columns)
        for m in result["indexes"]:
            curves = [c for mode, threads in modes if (c := m.curve(kind, mode, threads))]
            rates = [shown(curve.at(recall)) for curve in curves for recall in recalls]
            top = max((p.recall for c in curves for p in c.points), default=0.0)
            label = f"**{m.name}**" if m.ours else m.name
            cost = [f"{m.build['build_cpu_s']:.1f}", f"{m.build['build_wall_s']:.1f}", f"{m.build['bytes']:.0f}"]
            yield "| " + " | ".join([label, *cost, *rates, f"{top:.4f}"]) + " |"
        yield ""


def shown(qps: float) -> str:
    return "-" if math.isnan(qps) else f"{qps:,.0f}" if qps >= 100 else f"{qps:.1f}"


def draw(figure: Any, name: str, result: Result) -> None:
    """Queries a second over recall, single queries left, batches on one thread right, a row for each kind of query."""
    kinds = list(dict.fromkeys(kind for kind, _, _ in blocks(result)))
    indexes: Sequence[Measured] = result["indexes"]
    figure.set_size_inches(13, 5 * len(kinds) + 1)
    panels = figure.subplots(len(kinds), 2, squeeze=False)
    for line, kind in zip(panels, kinds, strict=True):
        for axes, mode in zip(line, ("single", "batch"), strict=True):
            for place, m in enumerate(indexes):
                curve = m.curve(kind, mode, 1)
                if curve and curve.points:
                    _line(axes, curve, m, place)
            axes.set(yscale="log", xlabel="recall@10", ylabel="queries / CPU second", title=f"{kind}, {mode}")
            axes.set_xlim(0.8, 1.001)
            axes.grid(alpha=0.3)
    figure.suptitle(f"{name}: {result['shape']}, one thread")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")


def _line(axes: Any, curve: Curve, measured: Measured, place: int) -> None:
    points = sorted(curve.points, key=lambda p: p.recall)
    style = {"linewidth": 2.2, "marker": "o"} if measured.ours else {"linewidth": 1.0, "linestyle": "--", "marker": "."}
    across, up = [p.recall for p in points], [curve.qps(p) for p in points]
    axes.plot(across, up, color=f"C{place % 10}", markersize=4, label=measured.name, **style)


def save_plot(file: Path, name: str, result: Result) -> None:
    """`draw` into a file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    draw(figure, name, result)
    figure.savefig(file, dpi=110)
