"""Recall and speed of each index at each effort, measured in turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from ann_data import Dataset, Floats
from ann_index import Contender, Index
from ann_store import Built, Shelf, describe
from threadpoolctl import threadpool_limits

ENOUGH, TOO_LITTLE = 0.997, 0.80
"""Efforts beyond the first that recalls so much are not measured, and of those that recall less only the best."""


@dataclass
class Point:
    """One effort: recall@10, and queries a second of CPU time and of wall time (medians of the passes)."""

    effort: str
    recall: float
    cpu_qps: float
    wall_qps: float


@dataclass
class Curve:
    """All efforts of an index for one kind of query; `mode` is "single" (one query a call) or "batch" (all in one)."""

    kind: str
    mode: str
    threads: int
    points: list[Point]

    def at(self, recall: float) -> float:
        """Queries a second at this recall: log-linear between neighbours on the frontier; NaN when it is not reached.

        By CPU time for one thread, by wall time for more. Below the lowest recall measured: the fastest point.
        """
        best: list[tuple[float, float]] = []  # the frontier, recall falling, speed rising
        for r, qps in sorted(((p.recall, self.qps(p)) for p in self.points), reverse=True):
            if not best or qps > best[-1][1]:
                best.append((r, qps))
        above = [pair for pair in best if pair[0] >= recall]
        if not above:
            return math.nan
        (r1, q1), below = above[-1], best[len(above) :]
        if not below:
            return q1
        r0, q0 = below[0]
        return math.exp(math.log(q1) + (math.log(q0) - math.log(q1)) * (r1 - recall) / (r1 - r0))

    def qps(self, point: Point) -> float:
        return point.cpu_qps if self.threads == 1 else point.wall_qps


@dataclass
class Measured:
    """An index on a data set: what its build cost (`ann_store.describe`) and its curves."""

    name: str
    version: str
    ours: bool
    build: dict[str, float]
    curves: list[Curve] = field(default_factory=list)

    def curve(self, kind: str, mode: str, threads: int) -> Curve | None:
        found = (c for c in self.curves if (c.kind, c.mode, c.threads) == (kind, mode, threads))
        return next(found, None)

    @classmethod
    def read(cls, held: dict[str, Any]) -> Measured:
        """From JSON."""
        curves = [Curve(**{**c, "points": [Point(**p) for p in c["points"]]}) for c in held["curves"]]
        return cls(**{**held, "curves": curves})

    def json(self) -> dict[str, Any]:
        return asdict(self)


Enter: TypeAlias = Callable[[Index, str], None]


class Task(NamedTuple):
    """One effort of one index on one kind of query, with its recall by mode: which queries to time in one pass."""

    kind: str
    effort: Any
    recall: dict[str, float]
    queries: Floats
    repeats: int


def recalls(
    index: Index, contender: Contender, data: Dataset, folder: Path, budget: float, enter: Enter
) -> Iterator[Task]:
    """What is worth timing. Recalls are kept beside the index, with a first guess of the speed: they do not change."""
    file = folder / "recalls.json"
    known: dict[str, list[float]] = json.loads(file.read_text()) if file.exists() else {}
    for kind, truth in data.truth.items():
        tasks: list[Task] = []
        enter(index, kind)
        for effort in contender.efforts:
            key = f"{kind}, {len(truth.queries)} queries: {effort}"
            if key not in known:
                index.set(effort, 1)
                start = time.process_time()
                found = index.search(truth.queries)
                known[key] = [truth.recall(found), len(found) / max(time.process_time() - start, 1e-6)]
                if not index.alike:
                    alone = [index.search_one(truth.queries[i : i + 1]) for i in range(len(truth.queries))]
                    known[key].append(truth.recall(np.concatenate(alone)))
            batch, rate, *single = known[key]
            recall = {"batch": batch, "single": single[0] if single else batch}
            wanted = max(int(rate * budget), 10)
            timed = truth.queries[: min(wanted, len(truth.queries))]
            tasks.append(Task(kind, effort, recall, timed, max(round(wanted / len(timed)), 1)))
            if min(recall.values()) >= ENOUGH:
                break
        low = [task.recall["batch"] < TOO_LITTLE for task in tasks]
        file.write_text(json.dumps(known))
        yield from tasks[max(sum(low) - 1, 0) :] if sum(low) < len(low) else tasks[-1:]


def timed(index: Index, task: Task, mode: str, threads: int, enter: Enter) -> tuple[float, float]:
    """Queries a second, by CPU and wall time."""
    enter(index, task.kind)
    index.set(task.effort, threads)
    queries = task.queries
    rows = [queries[i : i + 1] for i in range(len(queries))]
    index.search(queries[:4])
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(task.repeats):
        if mode == "batch":
            index.search(queries)
        else:
            for row in rows:
                index.search_one(row)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return len(queries) * task.repeats / cpu, len(queries) * task.repeats / wall


def modes(threads: Sequence[int]) -> list[tuple[str, int]]:
    """Single queries run on one thread; batches on each number of threads asked for."""
    return [("single", 1)] * (1 in threads) + [("batch", count) for count in sorted(threads)]


def sweep(
    data: Dataset,
    builds: dict[Contender, Built],
    threads: Sequence[int],
    passes: int,
    budget: float,
    memory: int,
    enter: Enter = lambda index, kind: None,
) -> list[Measured]:
    """Measure all these indexes: recall once, then `passes` times each effort of each in turns.

    `enter` tells an index of which kind the queries that follow are.
    """
    shelf = Shelf(data, memory)
    plans: dict[Contender, list[Task]] = {}
    for contender, build in builds.items():
        try:
            with threadpool_limits(1):
                plans[contender] = list(
                    recalls(shelf.take(contender, build), contender, data, build.folder, budget, enter)
                )
        except Exception as error:
            print(f"{contender.name} skipped: its search failed: {error!r:.200}", flush=True)
            continue
        reached = {task.kind: round(task.recall["batch"], 4) for task in plans[contender]}
        print(f"  {contender.name}: {len(plans[contender])} points, recall up to {reached}", flush=True)
    rates: dict[tuple[str, str, int, int], list[tuple[float, float]]] = {}
    for count in range(passes):
        for contender, tasks in plans.items():
            index = shelf.take(contender, builds[contender])
            for mode, width in modes(threads):
                time.sleep(0.05)  # worker threads of the one before stop spinning
                with threadpool_limits(width):
                    for place, task in enumerate(tasks):
                        rate = timed(index, task, mode, width, enter)
                        rates.setdefault((contender.name, mode, width, place), []).append(rate)
        print(f"  pass {count + 1} of {passes} done", flush=True)

    def curve(contender: Contender, kind: str, mode: str, width: int) -> Curve:
        points = []
        for place, task in enumerate(plans[contender]):
            if task.kind == kind:
                cpu, wall = zip(*rates[contender.name, mode, width, place], strict=True)
                speed = statistics.median(cpu), statistics.median(wall)
                points.append(Point(str(task.effort), task.recall[mode], *speed))
        return Curve(kind, mode, width, points)

    return [
        Measured(
            contender.name,
            contender.version,
            contender.ours,
            describe(builds[contender], len(data.base)),
            [curve(contender, kind, mode, width) for kind in data.queries for mode, width in modes(threads)],
        )
        for contender in plans
    ]


def best(
    measured: Sequence[Measured], kind: str, mode: str, threads: int, recall: float
) -> tuple[Measured, float] | None:
    """The fastest at this recall, and its queries a second; None when none reaches it."""
    rated = [(m, c.at(recall)) for m in measured if (c := m.curve(kind, mode, threads))]
    reached = [(m, qps) for m, qps in rated if not np.isnan(qps)]
    return max(reached, key=lambda pair: pair[1]) if reached else None
