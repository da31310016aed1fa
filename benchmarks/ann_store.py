"""Indexes are built once, each in a process of its own, and kept in files, from which every measurement loads them.

A process of its own makes the CPU time and memory of a build exact, and survives a peer that ends the process.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import resource
import shutil
import subprocess
import sys
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ann_data import Dataset
from ann_filters import FILTER_PEERS
from ann_index import OURS, Contender, Index, Spec
from ann_peers import PEERS


@dataclass(frozen=True)
class Built:
    """What a build cost. `bytes`: all that was saved, for ours and the peers alike; `peak`: memory of the process."""

    folder: Path
    threads: int
    cpu_s: float
    wall_s: float
    bytes: int
    peak: int


def contenders() -> dict[str, Contender]:
    """Ours and the peers, by name."""
    found: list[Contender] = [*OURS, *FILTER_PEERS, *PEERS]
    return {contender.name: contender for contender in found}


def source_hash() -> str:
    """Of our engine, native and Python: an index of ours is built anew when either has changed."""
    from rag import _native

    folder = Path(importlib.import_module("rag.index").__file__ or "").parent
    digest = hashlib.sha256(Path(_native.__file__).read_bytes())
    for file in sorted(folder.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def built(contender: Contender, data: Dataset, threads: int) -> Built | str:
    """The index in its folder, built if it is not there yet; or why it cannot be had."""
    stamp = source_hash() if contender.ours else contender.version.split()[-1]
    name = contender.name.replace(" ", "-").replace(".", "")
    folder = data.folder / "indexes" / f"{name}-{len(data.base)}-{stamp}-{threads}t"
    report = folder / "built.json"
    if not report.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        task = {"name": contender.name, "metric": data.metric, "threads": str(threads), "folder": str(folder)}
        for part, array in (("base", data.base), ("learn", data.learn)):
            if array is not None:
                task[part] = str(folder / f"{part}.input.npy")
                np.save(task[part], array)
        command = [sys.executable, __file__, json.dumps(task)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for part in ("base", "learn"):
            (folder / f"{part}.input.npy").unlink(missing_ok=True)
        if done.returncode:
            shutil.rmtree(folder)
            last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            return f"the build ended with code {done.returncode}: {last[:200]}"
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        figures = json.loads(done.stdout.splitlines()[-1])
        report.write_text(json.dumps({"bytes": size, **figures}))
    return Built(folder, threads, **json.loads(report.read_text()))


def _build(task: dict[str, str]) -> None:
    """In the process of its own: build, save, and print what it cost."""
    from threadpoolctl import threadpool_limits

    base = np.load(task["base"])
    learn = np.load(task["learn"]) if "learn" in task else None
    threads = int(task["threads"])
    with threadpool_limits(threads):
        index = contenders()[task["name"]].make(Spec(len(base), base.shape[1], task["metric"]))
        cpu, wall = time.process_time(), time.perf_counter()
        index.build(base, learn, threads)
        index.save(Path(task["folder"]))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("\n" + json.dumps({"cpu_s": cpu, "wall_s": wall, "peak": peak}))


class Shelf:
    """Loaded indexes; those used longest ago go when the memory allowed is used up."""

    def __init__(self, data: Dataset, limit: int) -> None:
        self._spec = Spec.of(data)
        self._limit = limit
        self._held: OrderedDict[str, tuple[Index, int]] = OrderedDict()

    def take(self, contender: Contender, build: Built) -> Index:
        """The index, loaded if it is not."""
        if contender.name not in self._held:
            need = build.bytes * 5 // 4
            while self._held and need + sum(size for _, size in self._held.values()) > self._limit:
                self._held.popitem(last=False)
            index = contender.make(self._spec)
            index.load(build.folder)
            self._held[contender.name] = (index, need)
        self._held.move_to_end(contender.name)
        return self._held[contender.name][0]


def describe(build: Built, n: int) -> dict[str, float]:
    """For tables and JSON; bytes a vector."""
    figures = asdict(build)
    return {
        "build_cpu_s": figures["cpu_s"],
        "build_wall_s": figures["wall_s"],
        "build_peak_mb": figures["peak"] / 1e6,
        "bytes": figures["bytes"] / n,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", nargs="?", help="JSON; without one, nothing is done")
    options, _ = parser.parse_known_args()
    if options.task:
        _build(json.loads(options.task))
