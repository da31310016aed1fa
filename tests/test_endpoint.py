"""Encoder and language model behind an OpenAI-compatible endpoint: against a real HTTP server on the loopback."""

import asyncio
import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rag import encoders, models
from rag.endpoint import estimate_tokens, split_spec
from rag.errors import ConfigError, MissingExtraError, ModelError, RagError
from rag.models import ChatModel, Completion
from rag.types import Message, Usage

pytest.importorskip("openai", reason="needs the extra `openai`")

KEY = "sk-secret-0123456789"
ASK = [Message("system", "Be brief."), Message("user", "Capital of France?")]


class Endpoint:
    """Answers POST requests by `reply(path, body) -> (status, content type, pieces)`, and remembers them."""

    def __init__(self) -> None:
        self.reply: Callable[[str, dict], tuple[int, str, list[bytes]]] = lambda path, body: (404, "text/plain", [b""])
        self.requests: list[dict] = []
        self.headers: list[HTTPMessage] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append(body)
                endpoint.headers.append(self.headers)
                status, kind, pieces = endpoint.reply(self.path, body)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                with contextlib.suppress(OSError):  # the client may have lost patience
                    for piece in pieces:
                        self.wfile.write(piece)
                        self.wfile.flush()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


def as_json(value: object, status: int = 200) -> tuple[int, str, list[bytes]]:
    return status, "application/json", [json.dumps(value).encode()]


def refusal(status: int, message: str, param: str | None = None) -> tuple[int, str, list[bytes]]:
    return as_json({"error": {"message": message, "type": "x", "param": param, "code": None}}, status)


def sleeping(seconds: float) -> Callable[[str, dict], tuple[int, str, list[bytes]]]:
    def reply(path: str, body: dict) -> tuple[int, str, list[bytes]]:
        time.sleep(seconds)
        return 200, "application/json", [b"{}"]

    return reply


# --- encoder


def embeddings(path: str, body: dict) -> tuple[int, str, list[bytes]]:
    """Vectors that tell the texts apart, in reverse order: the index counts."""
    assert path == "/v1/embeddings"
    rows = [{"object": "embedding", "index": i, "embedding": [len(t), 3.0]} for i, t in enumerate(body["input"])]
    return as_json({"object": "list", "data": rows[::-1], "model": body["model"], "usage": {}})


def encoder(endpoint: Endpoint, **settings):
    from rag.encoders.openai import OpenAIEncoder

    return OpenAIEncoder("small", endpoint.url, **{"retries": 0, **settings})


def test_texts_are_encoded_in_batches_and_in_order(endpoint):
    endpoint.reply = embeddings
    loaded = encoders.load(f"openai:small@{endpoint.url}")
    done: list[int] = []
    vectors = loaded.encode_documents(["x" * i for i in range(300)], progress=done.append)
    expected = np.array([[max(i, 1), 3] for i in range(300)], np.float64)  # an empty text is sent as a space
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-6)
    assert (vectors.dtype, loaded.dim, sum(done)) == (np.float32, 2, 300)
    assert len(endpoint.requests) == len(done) == 3
    assert all(request["model"] == "small" and all(request["input"]) for request in endpoint.requests)
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert encoders.load(loaded.name).fingerprint == loaded.fingerprint
    assert loaded.encode_queries([]).shape == (0, 2)
    assert isinstance(loaded, encoders.Encoder)


def test_the_dimension_is_asked_for_when_it_is_needed(endpoint):
    endpoint.reply = embeddings
    model = encoder(endpoint)
    assert endpoint.requests == []
    assert model.dim == 2
    assert model.dim == 2
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "2 texts were sent, but 0 vectors came back"),
        ([{"index": 0, "embedding": [1]}], "2 texts were sent, but 1 vectors came back"),
        ([{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}], "makes no sense"),
        ([{"index": 0, "embedding": [0, 0]}, {"index": 1, "embedding": [1, 2]}], "zero or not finite"),
        ([{"index": 0, "embedding": ["a"]}, {"index": 1, "embedding": ["b"]}], "makes no sense"),
        (None, "makes no sense"),
    ],
)
def test_vectors_that_make_no_sense_are_refused(endpoint, data, message):
    endpoint.reply = lambda path, body: as_json({"object": "list", "data": data, "model": "small"})
    with pytest.raises(ModelError, match=message):
        encoder(endpoint).encode_queries(["a", "b"])


def test_vectors_of_another_length_than_before_are_refused(endpoint):
    endpoint.reply = embeddings
    model = encoder(endpoint)
    model.encode_queries(["a"])
    endpoint.reply = lambda path, body: as_json({"data": [{"index": 0, "embedding": [1, 2, 3]}]})
    with pytest.raises(ModelError, match="has 3 numbers, earlier ones had 2"):
        model.encode_queries(["a"])


# --- language model


def completion(path: str, body: dict) -> tuple[int, str, list[bytes]]:
    assert path == "/v1/chat/completions"
    choice = {"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [{"token": "Paris", "logprob": -0.25}, {"token": ".", "logprob": -0.5}]}
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    return as_json({"id": "1", "choices": [choice], "usage": usage})


def events(*chunks: dict | str) -> tuple[int, str, list[bytes]]:
    lines = [c if isinstance(c, str) else json.dumps(c) for c in chunks]
    return 200, "text/event-stream", [f"data: {line}\n\n".encode() for line in lines]


def delta(text: str | None, finish: str | None = None, logprob: float | None = None) -> dict:
    choice: dict = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    if logprob is not None:
        choice["logprobs"] = {"content": [{"token": text, "logprob": logprob}]}
    return {"id": "1", "choices": [choice]}


def streamed(path: str, body: dict) -> tuple[int, str, list[bytes]]:
    assert body["stream"] is True
    usage = {"id": "1", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    return events(delta("Pa", logprob=-1), delta("ris", logprob=-2), delta(None, "stop"), usage, "[DONE]")


def chat_model(endpoint: Endpoint, **settings):
    return models.load(f"openai:gpt@{endpoint.url}", **{"retries": 0, **settings})


def collect(model, **settings) -> list[str | Completion]:
    async def run() -> list[str | Completion]:
        try:
            return [piece async for piece in model.astream(ASK, **settings)]
        finally:
            await model.aclose()

    return asyncio.run(run())


def answer(model, **settings) -> Completion:
    async def run() -> Completion:
        try:
            return await model.achat(ASK, **settings)
        finally:
            await model.aclose()

    return asyncio.run(run())


CALLS = {
    "chat": lambda model: model.chat(ASK),
    "stream": lambda model: list(model.stream(ASK)),
    "achat": answer,
    "astream": collect,
}


def test_a_question_is_sent_as_asked(endpoint):
    endpoint.reply = completion
    model = chat_model(endpoint)
    assert isinstance(model, ChatModel)
    got = model.chat(ASK, max_tokens=7, temperature=0.5, stop=["\n"])
    assert got == Completion("Paris.", Usage(9, 2, 1, cached_tokens=4))
    assert endpoint.requests == [
        {
            "model": "gpt",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Capital of France?"},
            ],
            "max_tokens": 7,
            "temperature": 0.5,
            "stop": ["\n"],
        }
    ]
    assert models.load(model.name).name == model.name


def test_log_probabilities_come_when_asked_for(endpoint):
    endpoint.reply = completion
    got = chat_model(endpoint, logprobs=True).chat(ASK)
    assert (got.tokens, got.logprobs) == (("Paris", "."), (-0.25, -0.5))
    endpoint.reply = streamed
    assert list(chat_model(endpoint, logprobs=True).stream(ASK))[-1].logprobs == (-1, -2)


def test_a_stream_brings_the_pieces_and_then_the_completion(endpoint):
    endpoint.reply = streamed
    *pieces, last = chat_model(endpoint).stream(ASK)
    assert pieces == ["Pa", "ris"]
    assert (last.text, last.usage) == ("Paris", Usage(9, 2, 1))


def test_the_async_twins_answer_the_same(endpoint):
    model = chat_model(endpoint)
    endpoint.reply = completion
    assert answer(model) == model.chat(ASK)
    assert answer(model) == model.chat(ASK)  # in another event loop
    endpoint.reply = streamed
    assert collect(model) == list(model.stream(ASK))


def test_async_calls_wait_side_by_side(endpoint):
    together = threading.Barrier(4, timeout=10)

    def reply(path: str, body: dict) -> tuple[int, str, list[bytes]]:
        together.wait()  # breaks unless all four requests are under way at once
        return completion(path, body)

    endpoint.reply = reply
    model = chat_model(endpoint)

    async def run() -> list[Completion]:
        try:
            return await asyncio.gather(*(model.achat(ASK) for _ in range(4)))
        finally:
            await model.aclose()

    assert [c.text for c in asyncio.run(run())] == ["Paris."] * 4


def test_an_answer_that_was_cut_off_says_so(endpoint):
    cut = {"choices": [{"index": 0, "message": {"content": None}, "finish_reason": "length"}]}
    endpoint.reply = lambda path, body: as_json(cut)
    assert chat_model(endpoint).chat(ASK) == Completion("", Usage(calls=1), finish="length")
    endpoint.reply = lambda path, body: events(delta("Par", "length"), "[DONE]")
    assert list(chat_model(endpoint).stream(ASK))[-1].finish == "length"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_half_characters_do_not_get_through(endpoint, call):
    half = {"choices": [{"index": 0, "message": {"content": "a\ud83d"}, "finish_reason": "stop"}]}
    endpoint.reply = lambda path, body: (
        events(delta("a\ud83d"), delta(None, "stop"), "[DONE]") if body.get("stream") else as_json(half)
    )
    got = call(chat_model(endpoint))
    assert (got[-1] if isinstance(got, list) else got).text == "a?"


def test_too_many_requests_are_sent_again(endpoint):
    replies = [(429, "text/plain", [b"slow down"]), (500, "text/plain", [b"oops"])]
    endpoint.reply = lambda path, body: replies.pop() if replies else completion(path, body)
    assert chat_model(endpoint, retries=2).chat(ASK).text == "Paris."
    assert len(endpoint.requests) == 3


def test_parameters_that_a_model_refuses_are_replaced_once_and_for_all(endpoint, caplog):
    def reply(path: str, body: dict) -> tuple[int, str, list[bytes]]:
        for name in ("max_tokens", "temperature"):
            if name in body:
                return refusal(400, f"Unsupported parameter: {name}", name)
        return completion(path, body)

    endpoint.reply = reply
    model = chat_model(endpoint)
    with caplog.at_level(logging.WARNING):
        assert model.chat(ASK).text == "Paris."
    assert "takes no temperature" in caplog.text
    assert model.chat(ASK).text == "Paris."
    assert len(endpoint.requests) == 4
    assert endpoint.requests[-1]["max_completion_tokens"] == 512


FAULTS = {
    "no such model": (lambda p, b: refusal(404, "The model 'gpt' does not exist"), "status 404: .*does not exist"),
    "wrong key": (lambda p, b: refusal(401, f"Incorrect API key: {KEY}"), r"status 401: .*\*\*\*.*OPENAI_API_KEY"),
    "too many": (lambda p, b: refusal(429, "quota"), "status 429.*quota left"),
    "broken": (lambda p, b: (500, "text/html", [b"<h1>Internal error</h1>"]), "status 500"),
    "bad request": (lambda p, b: refusal(400, "context length", "messages"), "status 400: .*context length"),
    "nonsense": (lambda p, b: (200, "text/html", [b"<html>It works!</html>"]), "makes no sense|broke off"),
    "half a JSON": (lambda p, b: (200, "application/json", [b'{"choices": [']), "makes no sense|broke off"),
    "no choices": (lambda p, b: as_json({"choices": []}), "makes no sense|broke off"),
    "wrong fields": (lambda p, b: as_json({"answer": 42}), "makes no sense|broke off"),
    "hanging": (sleeping(1.0), "no answer in time"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_endpoint_are_model_errors_without_the_key(endpoint, call, fault):
    endpoint.reply, message = FAULTS[fault]
    with pytest.raises(ModelError, match=message) as caught:
        CALLS[call](chat_model(endpoint, timeout=0.3))
    assert KEY not in str(caught.value) + repr(caught.value) + repr(caught.value.__cause__)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_reach_the_encoder_as_model_errors_too(endpoint, fault):
    endpoint.reply, message = FAULTS[fault]
    message = message.replace("The model 'gpt'", "The model")
    with pytest.raises(ModelError, match=message) as caught:
        encoder(endpoint, timeout=0.3).encode_queries(["a"])
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("call", ["stream", "astream"])
@pytest.mark.parametrize(
    "chunks",
    [
        (delta("Pa"),),  # the connection ends before the answer does
        (delta("Pa"), "[DONE]"),
        (delta("Pa"), '{"choices": [', "[DONE]"),
        (delta("Pa"), '{"error": {"message": "overloaded"}}', "[DONE]"),
    ],
)
def test_a_stream_that_breaks_off_is_an_error(endpoint, call, chunks):
    endpoint.reply = lambda path, body: events(*chunks)
    with pytest.raises(ModelError, match=r"broke off|makes no sense"):
        CALLS[call](chat_model(endpoint))


def test_a_stream_that_stalls_is_an_error(endpoint):
    class Stalling(list):
        def __iter__(self):
            yield f"data: {json.dumps(delta('Pa'))}\n\n".encode()
            time.sleep(1.0)

    endpoint.reply = lambda path, body: (200, "text/event-stream", Stalling())
    stream = chat_model(endpoint, timeout=0.3).stream(ASK)
    assert next(stream) == "Pa"
    with pytest.raises(ModelError, match=r"no answer in time|Timeout|timed out"):
        next(stream)


def test_no_one_listening_is_a_model_error(endpoint):
    endpoint.server.shutdown()
    endpoint.server.server_close()
    for call in CALLS.values():
        with pytest.raises(ModelError, match="cannot be reached"):
            call(chat_model(endpoint))


def test_the_key_is_needed_for_openai_itself_but_not_for_other_endpoints(endpoint, monkeypatch):
    endpoint.reply = completion
    monkeypatch.delenv("OPENAI_API_KEY")
    for load in (models.load, encoders.load):
        with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
            load("openai:gpt")
    assert chat_model(endpoint).chat(ASK).text == "Paris."


def test_the_key_shows_nowhere(endpoint, caplog):
    endpoint.reply = completion
    model = chat_model(endpoint)
    with caplog.at_level(logging.DEBUG):
        model.chat(ASK)
    assert KEY not in caplog.text + repr(model) + model.name + repr(encoder(endpoint))


def test_without_the_client_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    for load in (models.load, encoders.load):
        with pytest.raises(MissingExtraError, match=r"modular-rag\[openai\]"):
            load("openai:gpt")


def test_specs():
    assert split_spec("gpt") == ("gpt", None)
    assert split_spec("org/model@v2@https://host/v1") == ("org/model@v2", "https://host/v1")
    with pytest.raises(RagError, match="names no model"):
        split_spec("@http://host")


def test_the_token_estimate_is_not_too_low():
    assert estimate_tokens("") == 0
    assert estimate_tokens("The cat sat.") == 4
    assert estimate_tokens("Donaudampfschifffahrtsgesellschaft") >= 9
    assert estimate_tokens("日本語のテキスト") >= 6
