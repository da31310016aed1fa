"""Processes that share a folder of states are killed while they write, read and make room: nothing wrong comes back.

python -m tests.kvcache.kill_writers --operations 10000 --processes 4 --seed 1
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rag.kvcache.directory import Directory

NAMES = 60
LARGEST = 40_000
BUDGET = 400_000


@dataclass
class Outcome:
    """Of one run. wrong: what came back that was never put, a line each; largest: bytes seen at most."""

    operations: int = 0
    found: int = 0
    kills: int = 0
    largest: int = 0
    wrong: tuple[str, ...] = ()


def content(name: int, version: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    draw = np.random.default_rng([name, version])
    return draw.integers(0, 256, int(draw.integers(1, LARGEST)), dtype=np.uint8)


def work(path: Path, seed: int) -> None:
    """Put, get, touch and drop until killed; a line for each operation: what it found, or what is wrong."""
    folder = Directory(path, BUDGET)
    draw = random.Random(seed)
    while True:
        name, version = int(NAMES * draw.random() ** 2), draw.randrange(3)
        hexadecimal = f"{name:040x}"
        action = draw.random()
        if action < 0.45:
            folder.write(hexadecimal, 1, {"name": name, "version": version}, [content(name, version)])
        elif action < 0.85:
            found = folder.read(hexadecimal)
            if found is not None:
                head, data = found
                right = head["name"] == name and np.array_equal(data, content(name, head["version"]))
                print("found" if right else f"wrong: {head} under {name}", flush=True)
                continue
        elif action < 0.95:
            folder.touch(hexadecimal)
        else:
            folder.remove(hexadecimal)
        print("done", flush=True)


def run(path: Path, operations: int, processes: int, seed: int) -> Outcome:
    """Workers on one folder, of which one after the other is killed and another one started in its place."""
    draw = random.Random(seed)
    outcome, wrong = Outcome(), []
    begun = [0] * processes  # lines of each log when its worker was started
    folder = Directory(path, BUDGET)
    logs = [path.with_name(f"{path.name}-{number}.log") for number in range(processes)]

    def start(number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.kvcache.kill_writers", "--work", str(path)]
        with logs[number].open("ab") as log:
            return subprocess.Popen([*command, "--seed", str(draw.randrange(1 << 30))], stdout=log, stderr=log)

    workers = [start(number) for number in range(processes)]
    try:
        while outcome.operations < operations:
            time.sleep(draw.uniform(0.01, 0.1))
            lines = [log.read_text().splitlines() for log in logs]
            outcome.operations, outcome.found = sum(map(len, lines)), sum(log.count("found") for log in lines)
            at_work = [number for number in range(processes) if len(lines[number]) > begun[number] + 25]
            if not at_work:
                continue
            number = draw.choice(at_work)
            begun[number] = len(lines[number])
            workers[number].send_signal(signal.SIGKILL)
            workers[number].wait()
            outcome.kills += 1
            outcome.largest = max(outcome.largest, folder.nbytes)
            workers[number] = start(number)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    for log in logs:  # a line that a kill has cut goes over into the next one, in the same letters
        wrong += [line for line in log.read_text().splitlines() if not set(line) <= set("found done")]
    outcome.largest = max(outcome.largest, folder.nbytes)
    for name in range(NAMES):
        found = folder.read(f"{name:040x}")
        if found is not None and not np.array_equal(found[1], content(name, found[0]["version"])):
            wrong.append(f"left: {found[0]}")
    outcome.wrong = tuple(wrong)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work(chosen.work, chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder) / "states", chosen.operations, chosen.processes, chosen.seed)
    print(outcome)
    return bool(outcome.wrong) or outcome.largest > BUDGET


if __name__ == "__main__":
    sys.exit(main())
