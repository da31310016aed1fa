"""The command `rag serve`: what it opens, what it refuses, that it starts, answers and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from rag.collection import Collection
from rag.errors import CollectionError, ConfigError
from rag.operators.indexing.ingest import index_paths
from rag.serve.service import Limits
from rag.serve.serving import open_service
from tests.serve.conftest import RagCommand
from tests.serve.service.server import serving


def test_every_collection_gets_search_and_every_pipeline(kb: Path, tmp_path: Path):
    (tmp_path / "words.yaml").write_text("flow: [bm25]\n")
    with open_service(["hybrid", "words.yaml"], [str(kb)], None) as alone:
        assert set(alone.tools) == {"hybrid", "words", "search"}
        assert set(alone.collections) == {"kb"}
    with open_service(["hybrid"], [f"law={kb}", f"news={kb}"], None) as both:
        assert set(both.tools) == {"law_hybrid", "law_search", "news_hybrid", "news_search"}


def test_without_a_pipeline_an_answering_one_is_served(kb: Path):
    for llm, answering in ((None, "extractive"), ("scripted", "naive")):
        with open_service([], [str(kb)], llm) as service:
            assert set(service.tools) == {answering, "search"}


def test_what_several_pipelines_name_is_opened_once(kb: Path, tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(f"collection: {kb}\nencoder: hashing:128\nflow: [dense]\n")
    with open_service(["a.yaml", "b.yaml"], [], None) as service:
        a, b = (service.tools[name].pipeline.resources for name in ("a", "b"))
        assert a["collection"] is b["collection"]
        assert a["encoder"] is b["encoder"]
        assert list(service.collections.values()) == [a["collection"]]
    with pytest.raises(CollectionError, match="was closed"):
        len(a["collection"])


def test_collections_of_nested_pipelines_are_opened_once_and_follow_their_writers(
    kb: Path, documents: Path, tmp_path: Path
):
    archive = tmp_path / "archive"
    with Collection.create(archive, encoder="hashing:64") as written:
        index_paths(written, documents / "sailing.md")
        (tmp_path / "old.yaml").write_text(f"name: old\ncollection: {archive}\nflow: [bm25]\n")
        (tmp_path / "deep.yaml").write_text(
            "flow:\n  - route:\n      by: select_retriever\n      default: deep\n"
            "      flows: {deep: {pipeline: {flow: [pipeline: old.yaml]}}, sparse: {pipeline: old.yaml}}\n"
        )
        with open_service(["deep.yaml"], [str(kb)], None, Limits(refresh=0.05)) as service:
            parts = service.tools["deep"].pipeline.parts
            assert [part.name for part in parts] == ["", "old", "old"]
            opened = parts[1].resources["collection"]
            assert parts[2].resources["collection"] is opened
            assert service.collections[str(archive)] is opened

            def found(base: str) -> set[str]:
                done = httpx2.post(f"{base}/v1/pipelines/deep/run", json={"query": "roux sail"})
                return {hit["document"] for hit in done.json()["hits"]}

            with serving(service) as base:
                assert found(base) == {"sailing.md"}
                index_paths(written, documents)
                until = time.monotonic() + 10
                while len(found(base)) < 2 and time.monotonic() < until:
                    time.sleep(0.02)
                assert len(found(base)) == 2
    with pytest.raises(CollectionError, match="was closed"):
        len(opened)


def test_names_must_differ(kb: Path):
    with (
        pytest.raises(ConfigError, match="two collections are called 'kb'"),
        open_service(["hybrid"], [str(kb)] * 2, None),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="two pipelines are called 'hybrid'"),
        open_service(["hybrid"] * 2, [str(kb)], None),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing to serve"),
        (["hybrid"], 2, "needs a Collection"),
        (["hibrid", "-c", "KB"], 3, "did you mean 'hybrid'"),
        (["hybrid", "-c", "nowhere"], 3, "not a collection"),
        (["hybrid", "-c", "KB", "--host", "0.0.0.0"], 2, "no token"),
        (["hybrid", "-c", "KB", "--mcp", "stdio", "--ui"], 2, "no page"),
        (["hybrid", "-c", "KB", "--port", "PORT"], 2, "cannot listen"),
    ],
)
def test_refusals(rag: RagCommand, kb: Path, arguments: list[str], code: int, message: str):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        filled = {"KB": str(kb), "PORT": str(taken.getsockname()[1])}
        done = rag("serve", *(filled.get(a, a) for a in arguments))
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_short_token_is_refused(rag: RagCommand, kb: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_TOKEN", "secret")
    done = rag("serve", "hybrid", "-c", kb, "--host", "0.0.0.0", "--token-env", "MY_TOKEN")
    assert done.code == 2
    assert "MY_TOKEN has 6 characters" in done.err
    assert "secret" not in done.err


def test_it_starts_answers_logs_and_ends(kb: Path):
    token = "0123456789abcdef0123456789"
    command = [sys.executable, "-m", "rag", "serve", "hybrid", "-c", str(kb), "--port", "0", "--ui", "--mcp", "http"]
    environment = {**os.environ, "RAG_TOKEN": token, "COLUMNS": "200"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        told = ""
        while (place := re.search(r"MCP\s+(http://\S+)/mcp", told)) is None:
            line = process.stderr.readline()
            assert line, told
            told += line
        assert "serving hybrid, search" in told
        with httpx2.Client(
            base_url=place[1],
            timeout=20,
            headers={"Authorization": f"Bearer {token}"},
            transport=httpx2.HTTPTransport(retries=8),
        ) as client:
            found = client.post("/v1/pipelines/hybrid/run", json={"query": "secret roux"}).json()["hits"]
            assert found[0]["document"] == "sub/cooking.txt"
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=20)
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert "POST '/v1/pipelines/hybrid/run' 200" in rest
    for private in (token, "secret roux", "Traceback"):
        assert private not in rest
