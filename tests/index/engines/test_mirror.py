"""The mirror in Milvus stays in step with its collection through deaths, failures and losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.collection import Collection
from rag.errors import EngineError
from rag.index.engines import MilvusIndex, milvus_client
from tests.collection.samples import ENCODER, advance, check, document, put
from tests.index.engines.samples import HISTORY, create, examine, killed, mirrored

pytest.importorskip("pymilvus", reason="extra milvus")
pytest.importorskip("milvus_lite", reason="extra milvus")


@pytest.mark.parametrize("point", ["half added", "added", "committed"])
def test_a_writer_that_dies_between_engine_and_manifest(point: str, tmp_path: Path) -> None:
    create(tmp_path / "kb", "milvus", 3).close()
    for _ in range(2):
        examine(tmp_path / "kb", killed(tmp_path / "kb", point))


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
        for _ in range(2):
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
