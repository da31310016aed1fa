"""Several processes on one folder, some of them killed; the long form is `python -m tests.kvcache.kill_writers`."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from rag.kvcache.directory import Directory
from tests.kvcache.kill_writers import BUDGET, run


def test_killed_writers_leave_nothing_wrong(tmp_path: Path):
    outcome = run(tmp_path / "states", operations=300, processes=2, seed=0)
    assert outcome.wrong == ()
    assert outcome.largest <= BUDGET
    assert outcome.kills
    assert outcome.found > 10


def _fill(path: Path, first: int) -> None:
    folder = Directory(path, 50_000)
    for name in range(first, first + 60):
        assert folder.write(f"{name:040x}", 1, {}, [])


def test_the_budget_is_one_for_all(tmp_path: Path):
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_fill, args=(tmp_path, first)) for first in (0, 60, 120)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    folder = Directory(tmp_path, 50_000)
    assert len(folder.names()) == 180
    assert folder.nbytes == 180 * (64 + 64)
