"""MilvusIndex: the conformance tests on embedded Milvus, and what it does about limits, strangers and failures."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.errors import CollectionError, EngineError, InputError
from rag.index import Metric, ScanIndex, VectorIndex
from rag.index.engines import MilvusIndex, milvus, open_engine
from tests.index.conformance import VectorIndexConformance, random_vectors

pytest.importorskip("pymilvus", reason="extra milvus")
pytest.importorskip("milvus_lite", reason="extra milvus")

numbers = count()


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"milvus:{tmp_path_factory.mktemp('milvus') / 'vectors.db'}"


@pytest.fixture(scope="module", autouse=True)
def _serving(uri: str) -> Iterator[None]:
    """Keep the file in use, so that it is not opened anew for each test."""
    index = open_engine(uri, 2, name="unused")
    yield
    assert isinstance(index, MilvusIndex)
    index.close()


def opened(uri: str, dim: int, metric: Metric = "cosine", name: str | None = None) -> MilvusIndex:
    index = open_engine(uri, dim, metric, name=name or f"test_{next(numbers)}")
    assert isinstance(index, MilvusIndex)
    return index


class Milvus(VectorIndexConformance):
    # Embedded Milvus ranks exactly, and rounds differently with the size of a batch.
    exact = False

    @pytest.fixture(autouse=True)
    def _uri(self, uri: str) -> None:
        Milvus.uri = uri

    uri: str

    def make(self, dim: int) -> MilvusIndex:
        return opened(Milvus.uri, dim, self.metric)

    def reopen(self, index: VectorIndex, path: Path) -> VectorIndex | None:
        # The test changes both, so that the one that is opened again has to be a copy.
        assert isinstance(index, MilvusIndex)
        copy = opened(Milvus.uri, index.dim, self.metric)
        ids = index.ids()
        rows = index._client.query(index.name, filter=f"id in {ids.tolist()}", output_fields=["id", "vector"])
        copy.add(np.array([r["id"] for r in rows]), np.array([r["vector"] for r in rows], np.float32))
        return opened(Milvus.uri, copy.dim, self.metric, copy.name)


class TestIp(Milvus):
    metric = "ip"


class TestCosine(Milvus):
    metric = "cosine"


class TestL2(Milvus):
    metric = "l2"


def test_is_a_vector_index(uri: str) -> None:
    assert isinstance(opened(uri, 3), VectorIndex)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_requests_stay_within_the_limits_and_answers_are_those_of_a_scan(
    metric: Metric, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With limits so low that everything has to be split: many ids, many queries, filters of every size."""
    rng = np.random.default_rng(0)
    vectors, queries, ids = random_vectors(rng, 900, 8), random_vectors(rng, 50, 8), np.arange(900) * 2
    ours, theirs = ScanIndex(8, metric), opened(uri, 8, metric)
    limits = {"MOST_IDS": 70, "MOST_SLICES": 2, "MOST_RESULTS": 64, "INSERT_BYTES": 40 * 4 * 8, "ANSWER_RESULTS": 300}
    for name, value in limits.items():
        monkeypatch.setattr(milvus, name, value)
    asked: list[dict[str, Any]] = []
    search, insert = theirs._client.search, theirs._client.insert

    def watched_search(name: str, **wanted: Any) -> Any:
        asked.append(wanted)
        return search(name, **wanted)

    def watched_insert(name: str, rows: list[dict[str, Any]]) -> None:
        assert len(rows) <= 40
        insert(name, rows)

    monkeypatch.setattr(theirs._client, "search", watched_search)
    monkeypatch.setattr(theirs._client, "insert", watched_insert)
    for index in (ours, theirs):
        index.add(ids, vectors)
        index.delete(ids[::9])
    assert (theirs.ids() == np.delete(ids, np.s_[::9])).all()
    for size in (1, 9, 70, 71, 140, 141, 450, 900):
        allowed = np.sort(rng.choice(ids, size, replace=False))
        expected, found = (index.search(queries, 12, filter=allowed) for index in (ours, theirs))
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert all(a["limit"] <= 64 and len(a["data"]) * a["limit"] <= 300 + 64 for a in asked)
    assert all(a["filter"].count(",") < 70 for a in asked)
    assert any(a["filter"] for a in asked)
    assert any(not a["filter"] for a in asked), "large filters are tried on unfiltered results"
    with pytest.raises(InputError, match="at most 64"):
        theirs.search(queries, 65)


def test_what_is_there_must_fit(uri: str) -> None:
    made = opened(uri, 4, "l2", "taken")
    made.add(np.arange(3), np.eye(3, 4, dtype=np.float32))
    assert len(opened(uri, 4, "l2", "taken")) == 3
    with pytest.raises(EngineError, match="vectors of 4 numbers, not 5"):
        opened(uri, 5, "l2", "taken")
    with pytest.raises(EngineError, match="measures by L2, not IP"):
        opened(uri, 4, "ip", "taken")
    made._client._client.create_collection("strange", dimension=4, id_type="string", max_length=9)
    with pytest.raises(EngineError, match="made by something else"):
        opened(uri, 4, "cosine", "strange")
    with pytest.raises(InputError, match="name"):
        opened(uri, 4, "l2", "no/name")
    with pytest.raises(InputError, match="32768"):
        opened(uri, 40_000)
    with pytest.raises(TypeError, match="open_engine"):
        pickle.dumps(made)


def test_a_closed_one_says_so_and_frees_the_file(tmp_path: Path) -> None:
    uri = f"milvus:{tmp_path / 'own.db'}"
    one, two = opened(uri, 2, name="shared"), opened(uri, 2, name="shared")
    one.add(np.array([7]), np.ones((1, 2), np.float32))
    one.close()
    one.close()
    with pytest.raises(CollectionError, match="closed"):
        len(one)
    assert len(two) == 1
    two.close()
    code = (
        "import sys; from rag.index.engines import open_engine; print(len(open_engine(sys.argv[1], 2, name='shared')))"
    )
    other = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True, timeout=120)
    assert other.stdout == "1\n", other.stderr
    again = opened(uri, 2, name="shared")
    other = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True, timeout=120)
    assert "EngineError" in other.stderr
    assert "one at a time" in other.stderr
    again.close()


# --- servers


def test_an_unreachable_server() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"milvus://127.0.0.1:{port}/papers.*is the server running"):
            open_engine(f"milvus://127.0.0.1:{port}/papers", 4)


@pytest.fixture
def doorkeeper() -> Iterator[tuple[int, list[str]]]:
    """The port of a server that refuses everybody, and what it was shown."""
    import grpc

    shown: list[str] = []

    def refuse(request: bytes, context: Any) -> bytes:
        shown.extend(value for key, value in context.invocation_metadata() if key == "authorization")
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure, please check username and password")
        raise AssertionError

    class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([Everything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port, shown
    server.stop(0)


def test_a_wrong_token(
    doorkeeper: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import base64

    port, shown = doorkeeper
    monkeypatch.setenv("MILVUS_TOKEN", "root:sesame")
    with pytest.raises(EngineError, match="MILVUS_TOKEN") as error:
        open_engine(f"http://127.0.0.1:{port}", 4)
    assert base64.b64encode(b"root:sesame").decode() in shown
    said = str(error.value) + repr(error.value.__cause__) + "".join(capfd.readouterr())
    assert "sesame" not in said
