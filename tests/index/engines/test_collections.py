"""Collections on other engines: they find what ours finds, and stay in step through commits, deaths and failures."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.collection import Collection
from rag.collection.manifest import Manifest
from rag.errors import ConfigError, EngineError, InputError
from rag.index import Metric
from rag.index.engines import FaissIndex, MilvusIndex, faiss, milvus_client
from rag.operators.indexing.ingest import index_paths
from rag.serve import cli
from tests.collection.samples import ENCODER, advance, check, document, histories, put

pytest.importorskip("faiss", reason="extra faiss")
pytest.importorskip("pymilvus", reason="extra milvus")
pytest.importorskip("milvus_lite", reason="extra milvus")

GUIDES = Path(__file__).resolve().parents[3] / "docs"
HISTORY = list(islice(histories(), 400))
ENGINES = ["faiss:hnsw", "milvus"]


@pytest.fixture(autouse=True)
def _graphs_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "SCAN_BELOW", 20)


def create(path: Path, uri: str | None, generations: int = 0, metric: Metric = "cosine") -> Collection:
    collection = Collection.create(path, encoder=ENCODER, engine=uri, metric=metric)
    with collection.writer() as writer:
        for _ in range(generations):
            advance(writer)
    return collection


def mirrored(collection: Collection) -> MilvusIndex:
    """The Milvus index of a collection."""
    assert collection._mirror is not None
    return collection._mirror.connect()


@pytest.mark.parametrize("uri", ENGINES)
def test_a_history_of_commits(uri: str, tmp_path: Path) -> None:
    with create(tmp_path / "kb", uri, 3) as collection:
        with Collection.open(tmp_path / "kb", encoder=ENCODER) as reader, collection.writer() as writer:
            for _ in range(9):
                generation = advance(writer)
                check(collection, HISTORY[generation])
                check(reader, HISTORY[3])  # which it still reads
            check(reader.refresh(), HISTORY[generation])
            if uri == "milvus":
                assert len(mirrored(collection)) > len(collection), "what the reader could see is there"
        with collection.writer() as writer:
            generation = advance(writer)
        check(collection, HISTORY[generation])
        assert collection.verify().ok
        if uri == "milvus":
            assert (mirrored(collection).ids() == collection.chunk_ids()).all(), "what nobody can see is gone"
        collection.compact()
        check(collection, HISTORY[generation])
        with collection.writer() as writer:
            writer.delete(list(HISTORY[generation]))
            writer.commit()
        check(collection, {})


@pytest.mark.parametrize("uri", ENGINES)
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_finds_what_our_own_engine_finds(uri: str, metric: Metric, tmp_path: Path) -> None:
    documents = [document(f"doc{i}", i) for i in range(60)]
    made = []
    for name, engine_uri in (("ours", None), ("theirs", uri)):
        made.append(create(tmp_path / name, engine_uri, metric=metric))
        with made[-1].writer() as writer:
            for start in range(0, 60, 20):
                put(writer, documents[start : start + 20])
                writer.commit()
            writer.delete([f"doc{i}" for i in range(0, 60, 7)])
            writer.commit()
    ours, theirs = made
    queries = ENCODER.encode_queries([f"doc{i} line1 badore" for i in range(20)])
    filters = (None, "version == 3", "version < 6", "even", "version >= 2", "version >= 0", "version > 99")
    for filter in filters:
        for expected, found in zip(
            ours.search_dense(queries, 8, filter=filter), theirs.search_dense(queries, 8, filter=filter), strict=True
        ):
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
            assert len(found) == len(expected)
            if uri != "milvus":
                assert (found.ids == expected.ids).all()
            else:  # which orders what is equal but for rounding as it likes
                assert set(found.ids[:-1]) <= set(expected.ids) or np.ptp(expected.scores) < 1e-5
    for collection in made:
        collection.close()


def test_faiss_keeps_its_indexes_in_the_segments(tmp_path: Path) -> None:
    with create(tmp_path / "kb", "faiss", 2) as collection:
        parts = collection._open.segments()
        assert all(isinstance(part.vectors, FaissIndex) for part in parts)
        assert collection.info().engine == "faiss:hnsw"
    damaged = next((tmp_path / "kb" / "segments").glob("*.vectors"))
    content = bytearray(damaged.read_bytes())
    content[-40] ^= 1
    damaged.write_bytes(content)
    with Collection.open(tmp_path / "kb", encoder=ENCODER, repair=True) as collection:
        assert not collection.verify().ok
        assert collection.rebuild().ok
        check(collection, HISTORY[2])
    with pytest.raises(InputError, match="float32"):
        Collection.create(tmp_path / "other", encoder=ENCODER, engine="faiss", codec="int8")


def test_the_manifest_of_our_own_engine_is_as_it_was(tmp_path: Path) -> None:
    with create(tmp_path / "kb", None, 1):
        assert "engine" not in (tmp_path / "kb" / "manifest.json").read_text()
        assert Manifest.read(tmp_path / "kb").engine is None


# --- deaths


def killed(path: Path, point: str, seconds: float = 0) -> int:
    """Run a writer until it is killed; the last generation that it acknowledged."""
    command = [sys.executable, "-m", "tests.index.engines.killed", str(path), point]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    lines = [process.stdout.readline()]
    if point == "never":
        time.sleep(seconds)
        process.kill()
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == -9, errors
    return max(int(line) for line in [*lines, *rest.splitlines()] if line.strip())


def examine(path: Path, acknowledged: int) -> None:
    """What is read right after the death, and in step again once a writer has opened."""
    with Collection.open(path, encoder=ENCODER) as collection:
        assert acknowledged <= collection.generation <= acknowledged + 1
        check(collection, HISTORY[collection.generation])
        assert collection.verify().ok
        with collection.writer() as writer:
            advance(writer)
        check(collection, HISTORY[collection.generation])
        if collection.info().engine == "milvus:":
            assert (mirrored(collection).ids() == collection.chunk_ids()).all()


@pytest.mark.parametrize("point", ["half added", "added", "committed"])
def test_a_writer_that_dies_between_engine_and_manifest(point: str, tmp_path: Path) -> None:
    create(tmp_path / "kb", "milvus", 3).close()
    for _ in range(2):
        examine(tmp_path / "kb", killed(tmp_path / "kb", point))


@pytest.mark.parametrize("uri", ENGINES)
def test_writers_killed_at_random_moments(uri: str, tmp_path: Path) -> None:
    create(tmp_path / "kb", uri, 1).close()
    rng = random.Random(3)
    for _ in range(4):
        examine(tmp_path / "kb", killed(tmp_path / "kb", "never", rng.uniform(0, 0.5)))


@pytest.mark.parametrize("uri", ENGINES)
def test_an_indexing_run_that_is_killed_and_run_again(uri: str, tmp_path: Path) -> None:
    """The guides of this project, by the command line; the second run finishes what the first has begun."""
    code = (
        "import sys; from rag.collection import Collection; from rag.operators.indexing.ingest import index_paths\n"
        "with Collection.open(sys.argv[1]) as kb: index_paths(kb, sys.argv[2], batch=4, commit_every=8)"
    )
    path = tmp_path / "kb"
    Collection.create(path, encoder="hashing:64", engine=uri).close()
    process = subprocess.Popen([sys.executable, "-c", code, path, GUIDES], stderr=subprocess.PIPE)
    while Manifest.read(path).generation < 3 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -9, "it was killed in the middle"
    assert cli.run(["index", str(path), str(GUIDES)]) == 0
    assert cli.run(["info", str(path), "--verify"]) == 0
    with Collection.create(tmp_path / "ours", encoder="hashing:64") as ours, Collection.open(path) as theirs:
        index_paths(ours, GUIDES)
        assert len(theirs) == len(ours)
        queries = ours.encoder.encode_queries(["the join rule", "what a commit writes", "filters over metadata"])
        for expected, found in zip(ours.search_dense(queries, 5), theirs.search_dense(queries, 5), strict=True):
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


# --- Milvus that fails, or has lost something


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The URI of a server, and what stops it."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    running, database, port = start_server_in_thread(str(tmp_path / "server"))
    yield f"milvus://127.0.0.1:{port}", lambda: running.stop(0).wait()
    running.stop(0).wait()
    database.close()


def test_a_server_that_goes_away(
    server: tuple[str, Callable[[], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, stop = server
    monkeypatch.setattr(milvus_client, "CALL_SECONDS", 1.0)
    monkeypatch.setattr(milvus_client, "CONNECT_SECONDS", 1.0)
    with create(tmp_path / "kb", uri, 2) as collection:
        check(collection, HISTORY[2])
        with collection.writer() as writer:
            put(writer, [document("doc5", 77)])
            stop()
            with pytest.raises(EngineError, match="server running"):
                writer.commit()
        assert collection.generation == 2
        with pytest.raises(EngineError, match=uri):
            collection.search_dense(np.ones((1, ENCODER.dim)), 2)
    # What is not Milvus's goes on.
    with Collection.open(tmp_path / "kb", encoder=ENCODER) as collection:
        assert collection.info().engine == uri
        assert set(collection.documents()) == set(HISTORY[2])
        assert len(collection.search_lexical(["common"], 3)[0]) == 3
        with pytest.raises(EngineError), collection.writer():
            pass
        assert any("server running" in problem for problem in collection.verify().problems)


def test_a_commit_that_the_engine_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with create(tmp_path / "kb", "milvus", 2) as collection:
        add = MilvusIndex.add

        def half(self: MilvusIndex, ids: Any, vectors: Any) -> None:
            add(self, ids[:2], vectors[:2])
            raise EngineError("the quota is used up")

        with collection.writer() as writer:
            with monkeypatch.context() as patch:
                patch.setattr(MilvusIndex, "add", half)
                with pytest.raises(EngineError, match="quota"):
                    advance(writer)
            check(collection, HISTORY[2])
            assert (mirrored(collection).ids() == collection.chunk_ids()).all(), "the half is taken back"
            generation = advance(writer)
        check(collection, HISTORY[generation])


def test_deletions_that_fail_are_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: MilvusIndex, ids: Any) -> int:
        raise EngineError("try again later")

    with create(tmp_path / "kb", "milvus", 2) as collection:
        with monkeypatch.context() as patch, collection.writer() as writer:
            patch.setattr(MilvusIndex, "delete", refused)
            generation = advance(writer)
            assert generation == 3, "the commit itself is done"
        check(collection, HISTORY[3])
        assert len(mirrored(collection)) > len(collection)
        with collection.writer() as writer:
            advance(writer)
        check(collection, HISTORY[4])
        assert len(mirrored(collection)) == len(collection)


def test_vectors_that_milvus_has_lost(tmp_path: Path) -> None:
    path = tmp_path / "kb"
    with create(path, "milvus", 3) as collection:
        lost = collection.chunk_ids()[:5]
        mirrored(collection).delete(lost)
    with Collection.open(path, encoder=ENCODER) as collection:
        with pytest.raises(EngineError, match="rag repair"):
            collection.search_dense(np.ones((1, ENCODER.dim)), 2)
        (problem,) = collection.verify().problems
        assert f"chunk {lost[0]}" in problem
        assert collection.rebuild().ok
        check(collection, HISTORY[3])
        # As many as there should be, and not the right ones: a count does not tell, repair does.
        mirrored(collection).delete(lost[:1])
        mirrored(collection).add(np.array([10**6]), np.ones((1, ENCODER.dim), np.float32))
        assert not collection.verify().ok
        assert collection.rebuild().ok
        check(collection, HISTORY[3])
        mirrored(collection).delete(collection.chunk_ids())
        with collection.writer():
            pass
        check(collection, HISTORY[3])


def test_results_never_hold_what_is_not_in_the_generation(tmp_path: Path) -> None:
    with create(tmp_path / "kb", "milvus", 2) as collection:
        vector = collection.vectors(collection.chunk_ids()[:1])
        strangers = 10**6 + np.arange(40)
        mirrored(collection).add(strangers, np.tile(vector, (40, 1)))
        (found,) = collection.search_dense(vector, 5)
        assert np.isin(found.ids, collection.chunk_ids()).all()
        assert len(found) == 5
        assert found.ids[0] == collection.chunk_ids()[0]


# --- the command line


@pytest.mark.parametrize("uri", ENGINES)
def test_the_command_line(uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kb, folder = str(tmp_path / "kb"), tmp_path / "texts"
    folder.mkdir()
    (folder / "a.md").write_text("# Bees\n\nBees live in hives and make honey.")
    (folder / "b.md").write_text("# Whales\n\nWhales live in the sea and sing.")
    assert cli.run(["index", kb, str(folder), "--engine", uri, "--encoder", "hashing:64"]) == 0
    (folder / "a.md").unlink()
    (folder / "b.md").write_text("# Whales\n\nWhales live in all oceans and sing.")
    assert cli.run(["index", kb, str(folder), "--engine", uri]) == 0, "the same engine may be named again"
    capfd.readouterr()
    assert cli.run(["search", kb, "where do whales live", "--json"]) == 0
    found = capfd.readouterr().out
    assert "all oceans" in found
    assert "hives" not in found
    assert cli.run(["ask", kb, "Where do whales live?"]) == 0
    assert "oceans" in capfd.readouterr().out
    assert cli.run(["info", kb, "--verify"]) == 0
    assert uri in capfd.readouterr().out
    assert cli.run(["index", kb, str(folder), "--engine", "faiss:ivf"]) == 2
    assert "keeps one engine" in capfd.readouterr().err


def test_an_engine_that_cannot_be_is_told_before_anything_is_made(tmp_path: Path) -> None:
    for uri in ("qdrant", "milvus://root:sesame@host"):
        with pytest.raises(ConfigError):
            Collection.create(tmp_path / "kb", encoder=ENCODER, engine=uri)
    assert not (tmp_path / "kb").exists()
