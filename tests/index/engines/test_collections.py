"""Collections on other engines: they find what ours finds, and keep what was committed when they are killed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.collection.manifest import Manifest
from rag.errors import ConfigError, InputError
from rag.index import Metric
from rag.index.engines import FaissIndex, faiss
from rag.operators.indexing.ingest import index_paths
from rag.serve import cli
from tests.collection.samples import ENCODER, advance, check, document, put
from tests.index.engines.samples import HISTORY, create, examine, killed, mirrored

GUIDES = Path(__file__).resolve().parents[3] / "docs"


def _missing(*modules: str) -> bool:
    return any(find_spec(module) is None for module in modules)


needs_faiss = pytest.mark.skipif(_missing("faiss"), reason="extra faiss")
needs_milvus = pytest.mark.skipif(_missing("pymilvus", "milvus_lite"), reason="extra milvus")
ENGINES = [pytest.param("faiss:hnsw", marks=needs_faiss), pytest.param("milvus", marks=needs_milvus)]


@pytest.fixture(autouse=True)
def _graphs_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "SCAN_BELOW", 20)


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


@needs_faiss
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
