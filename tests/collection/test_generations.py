"""Readers keep what they opened while a writer goes on; many of them at once; the cost of merging."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.collection import Collection
from rag.collection.merging import plan
from rag.errors import CollectionError
from tests.collection.samples import ENCODER, advance, check, document, filled, histories, put


def test_a_reader_keeps_its_generation_until_it_refreshes(tmp_path: Path) -> None:
    states = list(islice(histories(), 13))
    writing = Collection.create(tmp_path / "kb", encoder=ENCODER)
    readers = []
    with writing:
        for generation in range(12):
            readers.append(Collection.open(tmp_path / "kb"))
            with writing.writer() as writer:
                advance(writer)
            for g, reader in enumerate(readers):
                if (g + generation) % 3 == 0:
                    check(reader, states[g])
        writing.compact()
        for g, reader in enumerate(readers):
            check(reader, states[g])
            assert reader.generation == g
        check(readers[5].refresh(), states[12])
        for reader in readers:
            reader.close()


def test_opening_while_a_writer_removes_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader has read the manifest; before it opens the files, they are merged away."""
    module = sys.modules["rag.collection.opening"]
    original = module.check_database  # called between the two

    def overtaken(*args: Any) -> None:
        monkeypatch.setattr(module, "check_database", original)
        with Collection.open(tmp_path / "kb") as other, other.writer() as writer:
            put(writer, [document(f"doc{i}", 1) for i in range(4)])
            writer.commit()
        other_files.extend(path.name for path in (tmp_path / "kb" / "segments").iterdir())
        original(*args)

    other_files: list[str] = []
    filled(tmp_path / "kb", [document(f"doc{i}") for i in range(4)]).close()
    monkeypatch.setattr(module, "check_database", overtaken)
    with Collection.open(tmp_path / "kb") as reader:
        assert other_files
        assert "00000000.vectors" not in other_files
        check(reader, {f"doc{i}": document(f"doc{i}", 1) for i in range(4)})


def test_rows_that_nobody_reads_are_removed(tmp_path: Path) -> None:
    def rows() -> int:
        with reading._connections.lend() as db:
            return int(db.execute("SELECT count(*) FROM documents").fetchone()[0])

    collection = filled(tmp_path / "kb", [document(f"doc{i}") for i in range(8)])
    with collection, Collection.open(tmp_path / "kb") as reading:
        for version in (1, 2, 3):
            with collection.writer() as writer:
                put(writer, [document(f"doc{i}", version) for i in range(8)])
                writer.commit()
        assert rows() == 4 * 8, "a reader of the first generation needs them"
        check(reading, {f"doc{i}": document(f"doc{i}") for i in range(8)})
        reading.refresh()
        collection.compact()
        assert rows() == 8
        assert len(list((tmp_path / "kb" / "readers").iterdir())) <= 2
        assert len(list((tmp_path / "kb" / "segments").iterdir())) == 2
        check(reading.refresh(), {f"doc{i}": document(f"doc{i}", 3) for i in range(8)})


READER = """
import sys
from pathlib import Path
from typing import Any
from rag.collection import Collection
from tests.collection.samples import check, histories
states = []
history = histories()
with Collection.open(sys.argv[1]) as collection:
    print("ready", flush=True)
    checks = 0
    while collection.generation < int(sys.argv[2]) or not checks:
        collection.refresh()
        while len(states) <= collection.generation:
            states.append(next(history))
        check(collection, states[collection.generation])
        checks += 1
print(checks)
"""


def test_readers_in_other_processes_and_threads_while_a_writer_commits(tmp_path: Path) -> None:
    path, last = tmp_path / "kb", 15
    collection = Collection.create(path, encoder=ENCODER)
    failures: list[BaseException] = []
    states = list(islice(histories(), last + 1))

    def read(shared: Collection) -> None:
        try:
            with Collection.open(path) as own:
                while own.generation < last:
                    check(own.refresh(), states[own.generation])
                    for hits in shared.search_lexical(["common", "doc3"], 5):
                        assert len(hits) <= 5
        except BaseException as error:
            failures.append(error)

    with collection:
        command = [sys.executable, "-c", READER, str(path), str(last)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        threads = [threading.Thread(target=read, args=(collection,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        with collection.writer() as writer:
            for _ in range(last):
                advance(writer)
        for thread in threads:
            thread.join()
        outputs = [process.communicate(timeout=60)[0] for process in processes]
        assert not failures
        assert [process.returncode for process in processes] == [0, 0]
        assert all(int(output) >= 1 for output in outputs)
        assert collection.verify().ok


def test_threads_share_one_collection(tmp_path: Path) -> None:
    wholes = {f"doc{i}": document(f"doc{i}", sentences=20) for i in range(20)}
    failures: list[BaseException] = []
    with filled(tmp_path / "kb", list(wholes.values())) as collection:

        def read(seed: int) -> None:
            try:
                rng = random.Random(seed)
                for _ in range(40):
                    ids = np.array(rng.sample(range(400), 50))
                    assert [c.id for c in collection.chunks(ids)] == ids.tolist()
                    assert len(collection.select(f"number == {rng.randrange(1, 20)}")) == 20
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_a_forked_child_reads_with_connections_of_its_own(tmp_path: Path) -> None:
    code = """
import os, sys
from rag.collection import Collection
collection = Collection.open(sys.argv[1])
before = collection.chunks([0, 1])
child = os.fork()
if child == 0:
    os._exit(0 if collection.chunks([0, 1]) == before else 1)
assert os.waitpid(child, 0)[1] == 0
assert collection.chunks([0, 1]) == before
"""
    filled(tmp_path / "kb", [document("a")]).close()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, tmp_path / "kb"], check=True, timeout=60)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other users can get to; pytest's own is closed to them."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    for folder in [path, *path.rglob("*")]:
        folder.chmod(0o755)
    shutil.rmtree(path)


def test_a_folder_that_cannot_be_written_to_is_read(reachable: Path) -> None:
    filled(reachable / "kb", [document("doc1")]).close()
    code = """
import os, sys
from rag.collection import Collection
from rag.errors import CollectionError
if os.getuid() == 0:
    os.setuid(65534)
with Collection.open(sys.argv[1]) as collection:
    assert collection.document("doc1").text
    assert collection.search_lexical(["common"], 9)[0].chunks()
    try:
        collection.writer().__enter__()
    except CollectionError as error:
        assert "cannot be written to" in str(error), error
    else:
        raise AssertionError("wrote")
"""
    for path in [reachable / "kb", *(reachable / "kb").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    subprocess.run([sys.executable, "-c", code, reachable / "kb"], timeout=60, check=True)


def test_a_copied_folder_is_a_collection(tmp_path: Path) -> None:
    filled(tmp_path / "kb", [document("doc1")]).close()
    shutil.copytree(tmp_path / "kb", tmp_path / "copy", ignore=shutil.ignore_patterns("readers", "lock"))
    with Collection.open(tmp_path / "copy") as collection:
        check(collection, {"doc1": document("doc1")})
        with collection.writer() as writer:
            put(writer, [document("doc2")])
            writer.commit()
        check(collection, {name: document(name) for name in ("doc1", "doc2")})


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=300), st.sampled_from([0.0, 0.1]))
def test_merging_keeps_segments_few_and_rewrites_a_chunk_a_logarithmic_number_of_times(
    commits: list[int], deleted: float
) -> None:
    sizes: list[int] = []
    written = 0
    for size in commits:
        sizes.append(size)
        runs = plan(sizes, [int(s * deleted) for s in sizes])
        assert runs == sorted(runs)
        assert all(a < b for a, b in runs)
        for begin, end in reversed(runs):
            written += sum(sizes[begin:end])
            sizes[begin:end] = [sum(sizes[begin:end])]
        assert len(sizes) <= max(8, np.log2(sum(sizes)) + 1)
    assert sum(sizes) == sum(commits)
    assert written <= sum(commits) * (np.log2(sum(commits)) + 1)


def test_segments_that_are_much_deleted_are_written_anew() -> None:
    assert plan([100, 10], [25, 2]) == []
    assert plan([100, 10], [26, 2]) == [(0, 1)]
    assert plan([100, 10], [100, 3]) == [(0, 1), (1, 2)]


def test_commits_in_a_row_keep_their_order(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "kb", encoder=ENCODER) as collection:
        with collection.writer() as writer:
            for i in range(40):
                put(writer, [document(f"doc{i}")])
                writer.commit()
        assert list(collection.documents()) == [f"doc{i}" for i in range(40)]
        assert collection.chunk_ids().tolist() == list(range(120)), "ids are never given twice"
        assert collection.info().segments <= 8
        with pytest.raises(CollectionError, match="not open"):
            writer.delete(["doc1"])
