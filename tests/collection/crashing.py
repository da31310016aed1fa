"""Run by test_crashes.py: `python -m tests.collection.crashing FOLDER random|points|upgrade COUNT`.

A process forks writers that commit the known history, and they die: killed at a random moment, or by themselves at
each step of a commit in turn. After each death the last acknowledged generation, or the one whose commit was under
way, must be there exactly; and the next writer goes on from it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from rag.collection import Collection, database, files, generations, locks, manifest, segments, upgrading, writer
from tests.collection.samples import ENCODER, POOLED, TOKENS, advance, check, document, histories, put


def write_until_killed(path: Path, acknowledged: int, commits: int) -> NoReturn:
    with Collection.open(path) as collection, collection.writer() as writing:
        for _ in range(commits):
            generation = advance(writing)
            os.write(acknowledged, b"%d\n" % generation)
    os._exit(0)


def die_at(step: int) -> None:
    """Make this process end, without any clean-up, before the given step of what writes to disk."""
    count = 0

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os._exit(9)
            return function(*args, **more)

        return counted

    os.fsync = wrapped(os.fsync)
    for module, name in [
        (os, "replace"),
        (os, "unlink"),
        (files, "checksum"),
        (segments, "record"),
        (upgrading, "record"),
        (locks, "announce"),
        (writer, "purge"),
        (writer, "recover"),
        (generations, "purge"),
        (generations, "remember"),
        (generations, "sweep"),
        (manifest, "write_atomic"),
        (database, "dump_metadata"),
    ]:
        setattr(module, name, wrapped(getattr(module, name)))
    # The moment between the commit of the tables and the swap of the manifest.
    manifest.Manifest.write = wrapped(manifest.Manifest.write)  # type: ignore[method-assign]


def examine(path: Path, acknowledged: int, reference: list[dict[str, Any]]) -> int:
    """Check all of the collection; its generation."""
    with Collection.open(path, encoder=ENCODER) as collection:
        generation = collection.generation
        assert acknowledged <= generation <= acknowledged + 1, (acknowledged, generation)
        check(collection, reference[generation])
        report = collection.verify()
        assert report.ok, report.problems
    return generation


def run(path: Path, how: str, count: int) -> None:
    reference = list(islice(histories(), 4000))
    rng = random.Random(5)
    os.fsync = lambda descriptor: None  # what a process wrote outlives it without
    made = Collection.create(path, encoder=ENCODER, tokens=TOKENS)
    with made as collection, collection.writer() as writing_first:
        for _ in range(6):
            generation = advance(writing_first)
    deaths = attempt = 0
    while deaths < count:
        attempt += 1
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            if how == "points":
                die_at(attempt)
            write_until_killed(path, writing, 1 if how == "points" else 1000)
        os.close(writing)
        with os.fdopen(reading) as lines:
            told = []
            if how == "random":
                # Counted in commits, not in seconds alone: on a busy machine a commit may take long.
                told = [lines.readline() for _ in range(rng.randrange(3))]
                time.sleep(rng.uniform(0, 0.1))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            generation = max([generation, *map(int, "".join([*told, lines.read()]).split())])
        generation = examine(path, generation, reference)
        if status == 0:
            assert how == "points", "a writer ended before it was killed"
            break
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 9, status
        deaths += 1
    print(deaths, generation)


def upgrade(path: Path, count: int) -> None:
    """Die at every step of giving tokens to a collection, and of making them again, pooled; each process goes on from
    where the last one was, until one comes to its end."""
    upgrading.PIECE = 4
    os.fsync = lambda descriptor: None
    state = {f"doc{i}": document(f"doc{i}", i) for i in range(8)}
    with Collection.create(path, encoder=ENCODER) as collection, collection.writer() as writing:
        for names in (list(state)[:3], list(state)[3:5], list(state)[5:]):
            put(writing, [state[name] for name in names])
            writing.commit()
    deaths = generation = 0
    for encoder in (TOKENS, POOLED):
        for step in range(1, count):
            child = os.fork()
            if child == 0:
                die_at(step)
                with Collection.open(path, encoder=ENCODER) as collection:
                    collection.add_tokens(encoder)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            with Collection.open(path, encoder=ENCODER) as collection:
                assert collection.generation >= generation
                generation = collection.generation
                check(collection, state)
                report = collection.verify()
                assert report.ok, report.problems
                if status == 0:
                    assert collection.has_tokens
                    assert collection.token_encoder.fingerprint == encoder.fingerprint
                    break
            assert os.WEXITSTATUS(status) == 9, status
            deaths += 1
        else:
            raise AssertionError("the upgrade never came to its end")
    print(deaths, generation)


if __name__ == "__main__":
    if sys.argv[2] == "upgrade":
        upgrade(Path(sys.argv[1]), int(sys.argv[3]))
    else:
        run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
