"""Which words matched, over HTTP: spans in documents, what is refused, what the description says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator

from rag.collection import Collection
from rag.operators.indexing.ingest import index_paths
from rag.operators.retrieval import Dense
from rag.pipelines import Pipeline
from rag.serve.service import Limits, Service, search_pipeline
from tests.serve.service import samples
from tests.serve.service.server import serving


@pytest.fixture(scope="module")
def client(late: Collection, collection: Collection) -> Iterator[httpx2.Client]:
    both = Pipeline(
        Dense(k=2) >> Pipeline(Dense(k=2), collection=collection, name="other"), collection=late, name="both"
    )
    pipelines = [
        search_pipeline(late),
        search_pipeline(collection, "plain"),
        both,
        Pipeline(samples.Echo(), name="echo"),
    ]
    with serving(Service(pipelines, limits=Limits(body=20_000))) as base, httpx2.Client(base_url=base) as made:
        yield made


def asked(client: httpx2.Client, name: str = "search", **arguments: Any) -> httpx2.Response:
    return client.post(f"/v1/pipelines/{name}/highlights", json=arguments)


def test_matches_are_told_by_word_and_place_in_the_document(client: httpx2.Client, late: Collection):
    query = "does 🥣 butter thickens Sauces; zebra?"
    [hit] = client.post("/v1/pipelines/search/run", json={"query": query, "limit": 1}).json()["hits"]
    done = asked(client, query=query, chunks=[hit["id"]])
    assert done.status_code == 200
    [told] = done.json()["highlights"]
    assert told["chunk"] == hit["id"]
    text = late.document(hit["document"]).text
    rows = {row["word"]: row for row in told["matches"]}
    assert list(rows) == ["does", "butter", "thickens", "Sauces", "zebra"]
    for row in rows.values():
        assert query[slice(*row["query"])] == row["word"]
        assert text[slice(*row["span"])] == row["found"]
    assert [rows[word]["found"] for word in ("butter", "thickens", "Sauces")] == ["butter", "thickens", "sauces"]
    assert {word: row["strength"] for word, row in rows.items()} == {
        **dict.fromkeys(("butter", "thickens", "Sauces"), "strong"),
        **dict.fromkeys(("does", "zebra"), "none"),
    }


def test_a_chunk_in_the_middle_of_its_document(tmp_path: Path):
    lines = [f"word{i} 🥣 ß line" for i in range(300)]
    (tmp_path / "long.txt").write_text("\n".join(lines), encoding="utf-8")
    with Collection.create(tmp_path / "kb", encoder="hashing:64", tokens="hashing:64") as kb:
        index_paths(kb, tmp_path / "long.txt")
        assert len(kb) > 2
        with serving(Service([search_pipeline(kb)])) as url, httpx2.Client(base_url=url) as client:
            ids = kb.chunk_ids().tolist()
            rows = asked(client, query="word299 word150", chunks=ids).json()["highlights"]
            assert [row["chunk"] for row in rows] == ids
            best = [max(own, key=lambda match: match["score"]) for own in zip(*(row["matches"] for row in rows))]  # noqa: B905
            text = kb.document(next(iter(kb.documents()))).text
            assert [text[slice(*match["span"])] for match in best] == ["word299", "word150"]


@pytest.mark.parametrize(
    ("name", "arguments", "status", "told"),
    [
        ("search", {"query": "x", "chunks": [10**6]}, 404, "passages [1000000]"),
        ("plain", {"query": "x", "chunks": [0]}, 404, "token vectors"),
        ("both", {"query": "x", "chunks": [0]}, 404, "one collection"),
        ("echo", {"query": "x", "chunks": [0]}, 404, "one collection"),
        ("nothing", {"query": "x", "chunks": [0]}, 404, "no pipeline 'nothing'"),
        ("search", {"query": "", "chunks": [0]}, 422, "'query'"),
        ("search", {"query": "x" * 10_001, "chunks": [0]}, 422, "'query'"),
        ("search", {"query": "x", "chunks": []}, 422, "'chunks'"),
        ("search", {"query": "x", "chunks": [0] * 101}, 422, "'chunks'"),
        ("search", {"query": "x", "chunks": ["0"]}, 422, "'chunks.0'"),
        ("search", {"query": "x", "chunks": [-1]}, 422, "'chunks.0'"),
        ("search", {"query": "x", "chunks": [1 << 63]}, 422, "'chunks.0'"),
        ("search", {"query": "x", "chunks": [0], "more": 1}, 422, "'more'"),
        ("search", {"query": "x" * 30_000, "chunks": [0]}, 413, "20000 bytes"),
    ],
)
def test_what_is_refused(client: httpx2.Client, name: str, arguments: dict[str, Any], status: int, told: str):
    done = asked(client, name, **arguments)
    assert (done.status_code, done.headers["content-type"]) == (status, "application/problem+json")
    assert told in done.json()["detail"]
    assert done.json()["hint"]


def test_it_takes_json_and_post_alone(client: httpx2.Client):
    path = "/v1/pipelines/search/highlights"
    assert client.get(path).status_code == 405
    assert client.post(path, content=b"{", headers={"Content-Type": "application/json"}).status_code == 422
    assert client.post(path, content=b"{}").status_code == 415


def test_the_description_says_where_matches_can_be_asked_for(client: httpx2.Client, late: Collection):
    described = client.get("/openapi.json").json()
    paths = {path for path in described["paths"] if path.endswith("/highlights")}
    assert paths == {"/v1/pipelines/search/highlights", "/v1/pipelines/plain/highlights"}
    for name in ("HighlightsRequest", "Highlights", "MatchRow"):
        Draft202012Validator.check_schema(described["components"]["schemas"][name])
    reply = asked(client, query="butter", chunks=late.chunk_ids().tolist()).json()
    Draft202012Validator({**described, "$ref": "#/components/schemas/Highlights"}).validate(reply)
    request = Draft202012Validator({**described, "$ref": "#/components/schemas/HighlightsRequest"})
    assert request.is_valid({"query": "x", "chunks": [1]})
    assert not request.is_valid({"query": "x"})
    known = {
        name: client.get(f"/v1/pipelines/{name}").json()["highlights"] for name in ("search", "plain", "both", "echo")
    }
    assert known == {"search": True, "plain": False, "both": False, "echo": False}


def test_it_is_counted_by_itself(client: httpx2.Client):
    assert asked(client, query="butter", chunks=[0]).status_code == 200
    assert 'rag_requests_total{outcome="ok",pipeline="search/highlights"}' in client.get("/metrics").text
