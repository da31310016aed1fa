"""The service over HTTP, asked by a real client: results, errors, streams, limits, tokens, load."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator

from rag.collection import Collection
from rag.errors import ConfigError
from rag.operators.indexing.ingest import index_paths
from rag.pipelines import Pipeline
from rag.serve.http.guard import check_exposure
from rag.serve.service import Limits, Service, search_pipeline
from tests.serve.service import samples
from tests.serve.service.server import serving

TOKEN = "0123456789abcdef0123456789"


def service(collection: Collection, **limits: Any) -> Service:
    pipelines = [
        search_pipeline(collection),
        samples.quoting(collection),
        samples.every_flow(collection),
        Pipeline(samples.Echo(), name="echo"),
        Pipeline(samples.Hold() >> samples.Echo(), name="hold"),
        Pipeline(samples.Sleep() >> samples.Echo(), name="sleep"),
        Pipeline(samples.CountBatches(), name="count"),
        Pipeline(samples.Spill(), name="spill"),
    ]
    return Service(pipelines, collections={"kb": collection}, limits=Limits(**limits))


@pytest.fixture(scope="module")
def url(collection: Collection) -> Iterator[str]:
    with serving(service(collection), ui=True) as base:
        yield base


@pytest.fixture
def client(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=20) as made:
        yield made


def run(client: httpx2.Client, name: str, **arguments: Any) -> httpx2.Response:
    return client.post(f"/v1/pipelines/{name}/run", json=arguments)


def events(response: httpx2.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = ""
    for line in response.iter_lines():
        name, _, rest = line.partition(": ")
        if name == "event":
            kind = rest
        elif name == "data":
            yield kind, json.loads(rest)


# Results


def test_a_run_gives_the_result(client: httpx2.Client):
    done = run(client, "quoting", query="What is a roux made of?")
    assert done.status_code == 200
    assert done.headers["content-type"] == "application/json"
    answer = done.json()["answer"]
    assert "flour" in answer["text"]
    assert answer["citations"][0]["document"] == "sub/cooking.txt"
    found = run(client, "search", query="Größe des Segels", limit=1).json()["hits"]
    assert [hit["document"] for hit in found] == ["größe.txt"]


def test_what_is_written_meanwhile_is_found(tmp_path: Path, documents: Path):
    with Collection.create(tmp_path / "kb", encoder="hashing:64") as written:
        index_paths(written, documents / "sailing.md")
        with Collection.open(tmp_path / "kb") as kb:
            made = Service([search_pipeline(kb)], collections={"kb": kb}, limits=Limits(refresh=0.05))
            with serving(made) as url, httpx2.Client(base_url=url) as client:
                assert len(run(client, "search", query="roux").json()["hits"]) == 1
                index_paths(written, documents)
                assert _eventually(lambda: len(run(client, "search", query="roux").json()["hits"]) == 3)


def test_pipelines_are_listed_and_described(client: httpx2.Client):
    listed = client.get("/v1/pipelines").json()["pipelines"]
    assert {"search", "quoting", "routed"} <= {p["name"] for p in listed}
    routed = client.get("/v1/pipelines/routed").json()
    graph = routed["graph"]
    assert graph["kind"] == "route"
    assert [part["label"] for part in graph["parts"]] == ["by", "short", "long"]
    assert "loop" in json.dumps(graph)
    assert routed["arguments"]["required"] == ["query"]


def test_openapi_describes_what_is_served(client: httpx2.Client):
    described = client.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    body = described["paths"]["/v1/pipelines/quoting/run"]["post"]
    reference = body["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert reference == "#/components/schemas/quoting_Result"
    for schema in described["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    result = run(client, "quoting", query="sail").json()
    Draft202012Validator({**described, "$ref": reference}).validate(result)
    problem = run(client, "quoting").json()
    Draft202012Validator({**described, "$ref": "#/components/schemas/Problem"}).validate(problem)


def test_health_and_metrics(client: httpx2.Client):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["status"] == "ready"
    before = _metric(client, 'rag_requests_total{outcome="ok",pipeline="echo"}')
    assert run(client, "echo", query="x").status_code == 200
    assert run(client, "echo", query=3).status_code == 422
    assert _metric(client, 'rag_requests_total{outcome="ok",pipeline="echo"}') == before + 1
    assert _metric(client, 'rag_requests_total{outcome="rejected",pipeline="echo"}') >= 1
    assert _metric(client, 'rag_node_items_total{node="echo",pipeline="echo"}') >= 1
    assert _metric(client, "rag_requests_under_way") == 0


def _metric(client: httpx2.Client, name: str) -> float:
    told = client.get("/metrics")
    assert told.status_code == 200  # an error would pass for a 0
    lines = told.text.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.rsplit(" ", 1)[0] == name), 0)


# Streams


def test_events_come_in_order_and_end_with_the_result(client: httpx2.Client):
    question = {"query": "What is a roux made of?"}
    with client.stream("POST", "/v1/pipelines/quoting/stream?watch=true", json=question) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        told = list(events(response))
    kinds = [kind for kind, _ in told]
    assert (kinds[0], kinds[-1]) == ("started", "finished")
    for node in ("dense", "bm25", "fuse", "passages", "quote_sentence"):
        mine = [kind for kind, data in told if data.get("node") == node and kind != "token"]
        assert mine == ["node_started", "node_finished", "wrote"]
    tokens = "".join(data["text"] for kind, data in told if kind == "token")
    result = told[-1][1]["result"]
    assert result["answer"]["text"].startswith(tokens.strip())
    assert result == run(client, "quoting", **question).json()
    wrote = {data["node"]: data["channels"] for kind, data in told if kind == "wrote"}
    assert wrote["fuse"]["hits"]["hits"][0]["text"]
    assert wrote["fuse"]["hits"]["total"] == 3
    assert wrote["passages"]["context"]["passages"][0]["document"] == "sub/cooking.txt"


def test_without_watching_nothing_is_told_of_what_nodes_write(client: httpx2.Client):
    with client.stream("POST", "/v1/pipelines/quoting/stream", json={"query": "roux"}) as response:
        assert "wrote" not in {kind for kind, _ in events(response)}


def test_what_flows_decide_is_told(client: httpx2.Client):
    question = {"query": "a question of more than four words"}
    with client.stream("POST", "/v1/pipelines/routed/stream", json=question) as response:
        told = list(events(response))
    notes = [(data["node"], data["text"]) for kind, data in told if kind == "note"]
    assert notes == [("route", "took 'long'"), ("loop", "ended in round 2: 'enough' is true")]


def test_an_error_on_the_way_is_the_last_event(client: httpx2.Client):
    with client.stream("POST", "/v1/pipelines/count/stream", json={"query": "bad"}) as response:
        assert response.status_code == 200
        last = list(events(response))[-1]
    assert last[0] == "error"
    assert (last[1]["status"], last[1]["node"], last[1]["hint"]) == (502, "count_batches", "ask something else")


# Errors


@pytest.mark.parametrize(
    ("path", "body", "status", "detail", "hint"),
    [
        ("/v1/pipelines/serch/run", {"query": "x"}, 404, "no pipeline 'serch'", "did you mean 'search'"),
        ("/v1/pipelines/serch/stream", {"query": "x"}, 404, "no pipeline 'serch'", "did you mean 'search'"),
        ("/v1/pipelines/search/run", {}, 422, "argument 'query' is missing", "query, filter"),
        ("/v1/pipelines/search/stream", {}, 422, "argument 'query' is missing", "query, filter"),
        ("/v1/pipelines/search/run", {"query": "x", "filter": "yeer == 3"}, 422, "yeer", "year"),
        ("/v1/pipelines/search/run", [], 422, "no JSON object", None),
        ("/v1/pipelines/count/run", {"query": "bad"}, 502, "the model refuses", "ask something else"),
        ("/v2/nothing", {}, 404, "POST /v2/nothing", None),
        ("/v1/pipelines", {}, 405, "POST /v1/pipelines", None),
    ],
)
def test_errors_are_problems_with_a_hint(
    client: httpx2.Client, path: str, body: object, status: int, detail: str, hint: str | None
):
    answered = client.post(path, json=body)
    assert answered.status_code == status
    assert answered.headers["content-type"] == "application/problem+json"
    problem = answered.json()
    assert problem["status"] == status
    assert detail in problem["detail"]
    if hint:
        assert hint in problem["hint"]


def test_what_an_exception_says_stays_inside(client: httpx2.Client, caplog: pytest.LogCaptureFixture):
    answered = run(client, "spill", query="x")
    assert answered.status_code == 500
    assert answered.json()["detail"] == "node 'spill' raised RuntimeError"
    for text in (answered.text, caplog.text):
        assert "sk-1234" not in text
        assert "Traceback" not in text
    assert "node 'spill' raised RuntimeError" in caplog.text


def test_large_and_undeclared_bodies_are_refused(client: httpx2.Client):
    path = "/v1/pipelines/echo/run"
    large = json.dumps({"query": "x" * (2 << 20)}).encode()
    json_type = {"Content-Type": "application/json"}
    assert client.post(path, content=large, headers=json_type).status_code == 413
    pieces = (large[i : i + 65536] for i in range(0, len(large), 65536))
    assert client.post(path, content=pieces, headers=json_type).status_code == 413
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        refused = client.post(path, content=b'{"query": "x"}', headers={"Content-Type": kind})
        assert refused.status_code == 415
    assert run(client, "echo", query="after").json()["answer"]["text"] == "after"


def test_a_run_that_takes_too_long_is_a_504(collection: Collection):
    with serving(service(collection, seconds=0.2)) as url, httpx2.Client(base_url=url) as client:
        late = run(client, "hold", query="x")
        assert (late.status_code, late.json()["title"]) == (504, "Time limit reached")
        with client.stream("POST", "/v1/pipelines/hold/stream", json={"query": "x"}) as response:
            kind, problem = list(events(response))[-1]
        assert (kind, problem["status"]) == ("error", 504)
        samples.gate.set()


def test_a_body_that_comes_too_slowly_is_a_408(collection: Collection):
    with (
        serving(service(collection, seconds=0.2)) as url,
        socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as connection,
    ):
        head = "POST /v1/pipelines/echo/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f'{head}Content-Length: 50\r\n\r\n{{"query":'.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def test_more_than_it_admits_is_a_429_that_says_when_to_come_again(collection: Collection):
    with (
        serving(service(collection, requests=2)) as url,
        httpx2.Client(base_url=url, timeout=20) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        held = [pool.submit(run, client, "hold", query=str(n)) for n in range(2)]
        assert _eventually(lambda: client.get("/readyz").status_code == 503)
        for path in ("run", "stream"):
            refused = client.post(f"/v1/pipelines/echo/{path}", json={"query": "x"})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert "hint" in refused.json()
        samples.gate.set()
        assert [h.result().json()["answer"]["text"] for h in held] == ["0", "1"]
        assert client.get("/readyz").status_code == 200
        assert run(client, "echo", query="x").status_code == 200


def test_a_stopping_service_says_so(collection: Collection):
    stopping = service(collection)
    stopping.closing = True
    with serving(stopping) as url, httpx2.Client(base_url=url) as client:
        for refused in (run(client, "echo", query="x"), client.get("/readyz")):
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200


def _eventually(condition, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


# Who may ask


def test_pages_that_pretend_to_be_this_machine_are_refused(client: httpx2.Client, url: str):
    for host in ("evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", ""):
        refused = client.get("/v1/pipelines", headers={"Host": host})
        assert refused.status_code in (400, 421), host
    for host in ("localhost", "localhost:9", "127.0.0.1:1234", "[::1]:80"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_a_token_is_required_when_there_is_one(collection: Collection):
    with serving(service(collection), token=TOKEN, ui=True, mcp=True) as url, httpx2.Client(base_url=url) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            for method, path in (("GET", "/v1/pipelines"), ("POST", "/v1/pipelines/echo/run"), ("POST", "/mcp")):
                refused = client.request(method, path, headers=headers, json={"query": "x"})
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
                assert TOKEN not in refused.text
        assert client.get("/metrics").status_code == 401
        assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/", "/ui/app.js")] == [200] * 4
        allowed = client.post(
            "/v1/pipelines/echo/run",
            json={"query": "x"},
            headers={"Authorization": f"Bearer {TOKEN}", "Host": "rag.example"},
        )
        assert allowed.status_code == 200
        described = client.get("/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json()
        assert described["security"] == [{"token": []}]


def test_other_machines_are_let_in_with_a_good_token_only():
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.2"):
        check_exposure(host, None, "RAG_TOKEN")
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org"):
        with pytest.raises(ConfigError, match="no token") as caught:
            check_exposure(host, None, "RAG_TOKEN")
        assert "RAG_TOKEN" in (caught.value.hint or "")
        check_exposure(host, TOKEN, "RAG_TOKEN")
    with pytest.raises(ConfigError, match="5 characters"):
        check_exposure("0.0.0.0", "short", "RAG_TOKEN")


def test_browsers_are_kept_strict(client: httpx2.Client):
    page = client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in page.text.replace(str(client.base_url), "")
    assert client.get("/ui/../app.py").status_code == 404
    assert client.get("/ui/nothing.js").status_code == 404


# Load


def test_concurrent_requests_meet_in_batches_and_get_their_own_answers(collection: Collection):
    async def main(url: str) -> list[str]:
        limits = httpx2.Limits(max_connections=64)
        async with httpx2.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
            asked = (client.post("/v1/pipelines/count/run", json={"query": str(n)}) for n in range(64))
            return [r.json()["answer"]["text"] for r in await asyncio.gather(*asked)]

    with serving(service(collection, at_once=1)) as url:
        assert asyncio.run(main(url)) == [str(n) for n in range(64)]
    assert sum(samples.batches) == 64
    assert len(samples.batches) < 48


def test_200_clients_of_which_40_leave(collection: Collection):
    """Whoever stays gets an answer, nothing that belongs to the others is left, and the service goes on."""
    threads_before = {t.name for t in threading.enumerate()}

    async def stay(client: httpx2.AsyncClient, n: int) -> bool:
        if n % 2:
            response = await client.post("/v1/pipelines/sleep/run", json={"query": str(n)})
            return response.json()["answer"]["text"] == str(n)
        async with client.stream("POST", "/v1/pipelines/sleep/stream", json={"query": str(n)}) as response:
            text = (await response.aread()).decode()
        return "event: finished" in text and f'"text":"{n}"' in text

    async def leave(client: httpx2.AsyncClient, n: int) -> bool:
        try:
            await asyncio.wait_for(stay(client, n), 0.02 + (n % 7) / 100)
        except (asyncio.TimeoutError, httpx2.HTTPError):
            return True
        return True

    async def main(url: str) -> list[bool]:
        limits = httpx2.Limits(max_connections=200)
        async with httpx2.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
            return await asyncio.gather(*((leave if n % 5 == 0 else stay)(client, n) for n in range(200)))

    with serving(service(collection)) as url:
        assert all(asyncio.run(main(url)))
        with httpx2.Client(base_url=url) as client:
            assert _eventually(lambda: _metric(client, "rag_requests_under_way") == 0)
            ok, cancelled = (
                _metric(client, f'rag_requests_total{{outcome="{o}",pipeline="sleep"}}') for o in ("ok", "cancelled")
            )
            assert ok >= 160
            assert ok + cancelled <= 200
            assert run(client, "echo", query="still here").status_code == 200
    gc.collect()
    left = [t.name for t in threading.enumerate() if t.name not in threads_before]
    assert not [name for name in left if not name.startswith("rag-branch")]  # the pool of branches stays by design


def test_leaving_stops_the_run_at_its_next_node(collection: Collection):
    with serving(service(collection)) as url:
        for path in ("run", "stream"):
            with httpx2.Client(base_url=url, timeout=0.2) as client, pytest.raises(httpx2.TimeoutException):
                client.post(f"/v1/pipelines/hold/{path}", json={"query": "x"})
            assert samples.entered.acquire(timeout=5)
        with httpx2.Client(base_url=url) as client:
            assert _eventually(lambda: _metric(client, "rag_requests_under_way") == 0)
            samples.gate.set()
            assert _eventually(lambda: _metric(client, 'rag_requests_total{outcome="cancelled",pipeline="hold"}') == 2)
            assert run(client, "echo", query="x").status_code == 200
            assert _metric(client, 'rag_node_items_total{node="echo",pipeline="hold"}') == 0
