"""Kills writers: `python -m tests.collection.kill_loop --kills 200`.

A process adds, replaces and deletes documents, merges segments and turns them from scans into graphs and back, again
and again, and prints what it has committed; it is killed (SIGKILL) at a random moment. Then everything that it printed
must be there and be found, or the commit that was under way as well, whole; `rag info --verify` must find nothing
wrong; and a reader that was opened before must still see what it saw. The next process goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rag.collection import Collection
from rag.collection.manifest import Manifest
from rag.errors import LockedError
from rag.index import recommend
from rag.serve import keeping
from rag.types import Document
from tests.collection.samples import ENCODER, check, document, put

NAMES = [f"doc{i}" for i in range(12)]
BORDER = 60
"""Segments of more chunks are graphs."""
ROUNDING = 2e-3
"""Of the codecs that graphs keep vectors in."""


def change(step: int) -> tuple[list[Document], list[str]]:
    """What a step does: documents added or replaced, and ids deleted."""
    rng = random.Random(step)
    names = rng.sample(NAMES, k=6)
    return [document(name, step, sentences=rng.choice([1, 5, 40])) for name in names[:4]], names[4:]


def states() -> Iterator[dict[str, Document]]:
    """The documents after step 0, 1, 2, ..."""
    state: dict[str, Document] = {}
    step = 0
    while True:
        yield dict(state)
        step += 1
        added, deleted = change(step)
        for name in [*deleted, *(whole.id for whole in added)]:
            state.pop(name, None)
        state.update((whole.id, whole) for whole in added)


def step_of(collection: Collection) -> int:
    """The number of the last step stands in the settings, which are committed with it."""
    return int(collection.info().settings["step"])


def write_on(folder: Path) -> None:
    """Commit step after step, and now and then merge or upgrade everything, until the end comes from outside."""
    recommend.GRAPH_FROM = 64 * BORDER
    with Collection.open(folder, encoder=ENCODER) as collection, collection.writer() as writer:
        print("ready", flush=True)
        while True:
            step = writer.settings["step"] + 1
            added, deleted = change(step)
            put(writer, added)
            writer.delete(deleted)
            writer.settings["step"] = step
            writer.commit()
            print(step, flush=True)
            if step % 5 == 0:
                writer.compact()
                print("merged", flush=True)
            if step % 3 == 0:
                writer.upgrade("float32" if step % 9 == 0 else "auto")
                print("upgraded", flush=True)


def refusal(collection: Collection) -> str:
    """What a second writer is told."""
    try:
        with collection.writer():
            raise AssertionError("two writers at once")
    except LockedError as error:
        return str(error)


@dataclass
class Tally:
    """What happened: `left_behind` counts the kills in the middle of a commit or a merge that left files, `graphs`
    those after which some segment was a graph."""

    kills: int = 0
    steps: int = 0
    merges: int = 0
    upgrades: int = 0
    graphs: int = 0
    left_behind: int = 0


def run(folder: Path, kills: int, seed: int) -> Tally:
    """So many kills, and more, up to five times as many, until some segment was a graph: on a busy machine none may be
    one at any of the first."""
    rng, tally = random.Random(seed), Tally()
    history = states()
    known = [next(history)]
    pace = 0.1  # seconds that a commit takes, more or less
    Collection.create(folder, encoder=ENCODER, settings={"step": 0}).close()
    while tally.kills < kills or (not tally.graphs and tally.kills < 5 * kills):
        with Collection.open(folder, encoder=ENCODER) as reader:
            before = step_of(reader)
            command = [sys.executable, "-m", "tests.collection.kill_loop", "--write", str(folder)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n", "the writer could not begin"
                assert str(process.pid) in refusal(reader)
                lines = []
                for _ in range(rng.randrange(4)):
                    start = time.monotonic()
                    lines.append(process.stdout.readline())
                    pace = (pace + time.monotonic() - start) / 2
                time.sleep(rng.uniform(0, 1.2 * pace))
                process.send_signal(signal.SIGKILL)
                lines = "".join([*lines, process.stdout.read()]).split()
            assert process.returncode == -signal.SIGKILL, process.returncode
            tally.kills += 1
            tally.merges += lines.count("merged")
            tally.upgrades += lines.count("upgraded")
            printed = max([before, *(int(line) for line in lines if line.isdigit())])
            known += [next(history) for _ in range(printed + 2 - len(known))]
            needed = {Path(file.name).name for file in Manifest.read(folder).files}
            tally.left_behind += any(path.name not in needed for path in (folder / "segments").iterdir())
            with Collection.open(folder, encoder=ENCODER) as collection:
                tally.steps = step_of(collection)
                assert printed <= tally.steps <= printed + 1, (printed, tally.steps)
                tally.graphs += any(one.kind == "graph" for one in collection.info().indexes)
                check(collection, known[tally.steps], ROUNDING)
            with contextlib.redirect_stdout(io.StringIO()):
                keeping.info(folder, verify=True)  # rag info --verify, which raises when something is wrong
            check(reader, known[before], ROUNDING)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.write is not None:
        write_on(chosen.write)
    with tempfile.TemporaryDirectory(prefix="kill-loop-") as folder:
        tally = run(Path(folder) / "kb", chosen.kills, chosen.seed)
    print(
        f"{tally.kills} kills, {tally.left_behind} of them left files of an unfinished commit, {tally.graphs} graphs; "
        f"{tally.steps} commits, {tally.merges} merges and {tally.upgrades} upgrades came through; nothing that was "
        "committed is lost"
    )


if __name__ == "__main__":
    main()
