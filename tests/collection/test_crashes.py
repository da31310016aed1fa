"""What was committed survives the death of a writer at any moment, and a disk that is full."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.encoders import MultiVectorEncoder
from rag.errors import CollectionError, RagError
from rag.types import Chunk, Document
from tests.collection import kill_loop
from tests.collection.samples import ENCODER, TOKENS, check, document, filled, full_disk, put

KILLS = 60


def crash(path: Path, how: str, count: int) -> tuple[int, int]:
    command = [sys.executable, "-m", "tests.collection.crashing", str(path), how, str(count)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    deaths, generation = map(int, run.stdout.split())
    return deaths, generation


def test_writers_killed_at_random_moments(tmp_path: Path) -> None:
    deaths, generation = crash(tmp_path / "kb", "random", KILLS)
    assert deaths == KILLS
    assert generation >= 20, "some commits came through"


def test_writers_that_die_at_every_step_of_a_commit(tmp_path: Path) -> None:
    deaths, generation = crash(tmp_path / "kb", "points", 1000)
    assert 20 <= deaths < 1000
    assert generation >= 7


def test_upgrades_that_die_at_every_step_go_on_where_they_were(tmp_path: Path) -> None:
    deaths, generation = crash(tmp_path / "kb", "upgrade", 1000)
    assert 30 <= deaths < 1000
    assert generation == 3 + 2 * 4, "three commits, then twice one that says what is held, and one for each segment"


def test_processes_that_are_killed_between_commits_merges_and_readers(tmp_path: Path) -> None:
    tally = kill_loop.run(tmp_path / "kb", kills=6, seed=3)
    assert tally.kills >= 6
    assert tally.steps >= 2, "some commits came through"
    assert tally.graphs, "also of graphs"


BEFORE = {f"doc{i}": document(f"doc{i}") for i in range(3)}
AFTER = {**BEFORE, "doc5": document("doc5")}


@pytest.mark.parametrize("tokens", [None, TOKENS])
@pytest.mark.parametrize("call", range(1, 13))
def test_a_disk_that_fills_up_at_any_write(tmp_path: Path, call: int, tokens: MultiVectorEncoder | None) -> None:
    with filled(tmp_path / "kb", list(BEFORE.values()), tokens) as collection, collection.writer() as writer:
        put(writer, [document("doc5")])
        with full_disk(call) as calls:
            try:
                writer.commit()
            except CollectionError as error:
                assert "No space left" in str(error)  # noqa: PT017
                assert error.hint  # noqa: PT017
        if len(calls) < call:
            check(collection, AFTER)
            return  # a commit has fewer writes
        with Collection.open(tmp_path / "kb") as reader:
            check(reader, BEFORE if reader.generation == 1 else AFTER)
            assert reader.verify().ok
        put(writer, [document("doc5")])
        writer.commit()
        check(collection, AFTER)
        assert collection.verify().ok


@pytest.mark.parametrize("limit", [60_000, 200_000, 1_000_000])
def test_a_real_limit_on_file_size(tmp_path: Path, limit: int) -> None:
    """The system itself refuses to write, at whatever call that happens to be, SQLite's own included."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = Document("big", "".join(f"word{i} " for i in range(300_000)))
    texts = np.random.default_rng(0).standard_normal((20_000, ENCODER.dim)).astype(np.float32)
    chunks = [Chunk("big", big.text[i : i + 8], i, i + 8) for i in range(20_000)]
    with filled(tmp_path / "kb", list(BEFORE.values())) as collection, collection.writer() as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

        def change() -> None:
            writer.add([big], [chunks], texts)
            writer.commit()

        try:
            with pytest.raises(CollectionError) as error:
                change()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert error.value.hint
        check(collection, BEFORE)
        assert collection.verify().ok
        put(writer, [document("doc5")])
        writer.commit()
        check(collection, AFTER)
        assert collection.verify().ok


def test_control_c_in_a_commit(tmp_path: Path) -> None:
    code = """
import os, signal, sys, threading, time
from rag.collection import Collection
from tests.collection.samples import advance
with Collection.open(sys.argv[1]) as collection:
    try:
        with collection.writer() as writer:
            print("ready", flush=True)
            while True:
                advance(writer)
    except KeyboardInterrupt:
        with collection.writer() as writer:  # the lock is free, and the state sound
            advance(writer)
        print(collection.generation, collection.verify().ok)
"""
    Collection.create(tmp_path / "kb", encoder=ENCODER).close()
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "kb"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert output.endswith(" True\n")
    assert issubclass(CollectionError, RagError)
