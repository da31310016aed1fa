"""What the benchmarks share: fair timing, rows, and the table, plot and JSON that each writes."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One comparison; `ratio` > 1 means that ours is better."""

    case: str
    metric: str
    unit: str
    ours: float
    peer: str
    peer_version: str
    theirs: float
    ratio: float
    threads: int


def compare(
    case: str,
    metric: str,
    unit: str,
    ours: float,
    peer: tuple[str, str],
    theirs: float,
    threads: int,
    *,
    more: bool = True,
) -> Row:
    """A row; `peer` is its name and version, `more` says whether more of the unit is better."""
    ratio = ours / theirs if more else theirs / ours
    return Row(case, metric, unit, ours, *peer, theirs, ratio, threads)


def interleaved(
    contenders: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each contender, which take turns, so that a busy machine slows all of them alike.

    Before its time is taken, each has a pause, in which worker threads of the one before stop spinning, and then calls
    for a twentieth of a second, in which the cores wake up again and the others' data leaves the caches it can leave.
    On a busy machine `clock=time.process_time` leaves out the time given to others (for one thread).
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            time.sleep(0.05)
            warm = time.perf_counter() + 0.05
            call()
            while time.perf_counter() < warm:
                call()
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def machine() -> str:
    """The processor, its cores, the load, and Python: what every table states."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {name.strip(): value.strip() for name, value in fields.items()}
        model = f"{fields.get('model name', model)} (family {fields.get('cpu family')} model {fields.get('model')})"
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"


def versions(*packages: str) -> str:
    """Installed versions, as "numpy 2.4.0, faiss-cpu 1.15.1"."""
    return ", ".join(f"{package} {version(package)}" for package in packages)


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| case | threads | metric | ours | peer | theirs | ratio |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        ours, theirs = f"{r.ours:.4g} {r.unit}", f"{r.theirs:.4g} {r.unit}"
        peer = f"{r.peer} {r.peer_version}"
        lines.append(f"| {r.case} | {r.threads} | {r.metric} | {ours} | {peer} | {theirs} | **{r.ratio:.2f}** |")
    return "\n".join(lines)


def write(name: str, title: str, notes: Sequence[str], rows: Sequence[Row], plot: Callable[[Any], None]) -> None:
    """Write results/NAME.json, .md and .png, and print the table. `plot` draws on a matplotlib figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    text = "\n".join([f"# {title}", "", *notes, "", f"![{title}]({name}.png)", "", table(rows), ""])
    (RESULTS / f"{name}.md").write_text(text)
    figure = Figure(figsize=(11, 6), layout="constrained")
    plot(figure)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    print(text)
