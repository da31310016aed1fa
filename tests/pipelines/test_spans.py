"""Spans of OpenTelemetry: one a run, a flow and an operator, nested as they run, named by the GenAI conventions."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rag.collection import Collection
from rag.errors import OperatorError
from rag.kvcache.report import Report, SegmentReport
from rag.models import Completion
from rag.models.scripted import ScriptedModel
from rag.operators import operator
from rag.operators.generation import Generate
from rag.operators.indexing.ingest import index_paths
from rag.operators.post_retrieval import BuildContext
from rag.operators.pre_retrieval import Rewrite
from rag.operators.resources import ChatModel
from rag.operators.retrieval import BM25, Dense, Fuse
from rag.pipelines import ContentCache, Each, Loop, Pipeline, Route, Run, Try
from rag.pipelines.spans import CAPTURE, tracing
from rag.types import Message, Usage
from tests.pipelines.conftest import Add, AddAsync, Fail, Meet, Say, Total
from tests.pipelines.test_flows import N
from tests.pipelines.test_memo import Slow
from tests.pipelines.test_patterns import Number, at_least, letters, parity, size

pytest.importorskip("opentelemetry.sdk")
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

SECRET = "Ada Lovelace wrote the first program."


class Traces:
    """The finished spans."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self.exporter = exporter

    @property
    def spans(self) -> list[ReadableSpan]:
        """In the order in which they began."""
        return sorted(self.exporter.get_finished_spans(), key=lambda s: s.start_time or 0)

    def of(self, node: str) -> ReadableSpan:
        (span,) = [s for s in self.spans if (s.attributes or {}).get("rag.node") == node]
        return span

    def about(self, node: str) -> dict[str, Any]:
        return dict(self.of(node).attributes or {})

    def tree(self) -> dict[str, str | None]:
        """Node to the node around it."""
        names = {s.context.span_id: str((s.attributes or {}).get("rag.node", s.name)) for s in self.spans if s.context}
        return {
            str((s.attributes or {}).get("rag.node", s.name)): None if s.parent is None else names[s.parent.span_id]
            for s in self.spans
        }


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traces]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield Traces(exporter)
    provider.shutdown()


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    folder = tmp_path_factory.mktemp("notes")
    (folder / "ada.md").write_text(f"# Ada\n\n{SECRET}\n", encoding="utf-8")
    with Collection.create(tmp_path_factory.mktemp("collections") / "notes", encoder="hashing:64") as made:
        index_paths(made, folder)
        yield made


def answering(kb: Collection) -> Pipeline:
    flow = Rewrite() >> (Dense(k=7) | BM25(k=5)) >> Fuse(k=3) >> BuildContext() >> Generate()
    model = ScriptedModel(["first program author", "Ada [1]."])
    return Pipeline(flow, collection=kb, llm=model, name="asking")


def test_each_kind_of_operator_has_its_operation(traces: Traces, kb: Collection):
    pipeline = answering(kb)
    assert pipeline.run("Who wrote the first program?").answer.text
    kinds = {(s.attributes or {})["rag.node"]: (s.name, s.kind) for s in traces.spans}
    model = pipeline.resources["llm"].name
    assert kinds["asking"] == ("invoke_workflow asking", SpanKind.INTERNAL)
    assert kinds["dense"] == ("retrieval notes", SpanKind.CLIENT)
    assert kinds["fuse"] == ("execute_tool retrieval.fuse", SpanKind.INTERNAL)
    assert kinds["generate"] == (f"chat {model}", SpanKind.CLIENT)
    about = traces.about("dense")
    assert about["gen_ai.operation.name"] == "retrieval"
    assert about["gen_ai.retrieval.top_k"] == 7
    assert about["gen_ai.data_source.id"] == "notes"
    assert about["rag.wrote.hits"] == 1
    assert traces.about("asking")["gen_ai.workflow.name"] == "asking"
    chat = traces.about("generate")
    assert (chat["gen_ai.operation.name"], chat["gen_ai.request.model"]) == ("chat", model)
    assert chat["gen_ai.response.finish_reasons"] == ("stop",)
    assert chat["gen_ai.usage.output_tokens"] == 2
    total = traces.about("asking")
    both = [traces.about(node) for node in ("rewrite", "generate")]
    for usage in ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "rag.calls"):
        assert total[usage] == sum(span[usage] for span in both)


def test_the_shared_embedding_of_a_question_is_an_embeddings_span(traces: Traces, kb: Collection):
    Pipeline((Dense(k=3) | Dense(k=4)) >> Fuse(), collection=kb).run("program")
    span = traces.of("embed_query")
    assert span.name == "embeddings 64"
    assert (span.attributes or {})["gen_ai.provider.name"] == "hashing"


EXPECTED = {
    "nested": None,
    "route": "nested",
    "parity": "route",
    "loop": "route",
    "parallel": "loop",
    "branch 1": "parallel",
    "add:2": "branch 1",
    "meet": "branch 1",
    "meet:2": "parallel",
    "total": "loop",
    "at_least": "loop",
}


@pytest.mark.parametrize("way", ["run", "run_batch", "stream", "arun", "arun_batch", "astream"])
def test_spans_nest_as_flows_do_in_every_way_to_run(way: str, traces: Traces):
    body = ((Add() >> Meet()) | Meet()) >> Total()  # the branches meet, so they are in two threads or tasks
    flow = Route(parity(), even=Add(by=9), odd=Loop(body, until=at_least(bound=1), at_most=3))
    pipeline = Pipeline(flow, inputs=N, name="nested")
    tracer = trace.get_tracer_provider().get_tracer("test")

    async def alone() -> None:
        if way == "astream":
            assert [event async for event in pipeline.astream(n=1)]
        else:
            await (pipeline.arun(n=1) if way == "arun" else pipeline.arun_batch([{"n": 1}]))

    with tracer.start_as_current_span("request"):
        if way.startswith("a"):
            asyncio.run(alone())
        elif way == "stream":
            list(pipeline.stream(n=1))
        else:
            pipeline.run(n=1) if way == "run" else pipeline.run_batch([{"n": 1}])
    assert traces.tree() == EXPECTED | {"nested": "request", "request": None}
    assert len({s.context.trace_id for s in traces.spans if s.context}) == 1
    assert traces.about("route")["rag.route"] == "odd"


def test_spans_of_an_operators_own_are_inside_it(traces: Traces):
    @operator
    async def fetching(n: int) -> Number:
        with trace.get_tracer_provider().get_tracer("http").start_as_current_span("GET"):
            await asyncio.sleep(0)
        return n

    Pipeline(fetching() >> AddAsync(), inputs=N).run(n=1)
    asyncio.run(Pipeline(fetching() >> AddAsync(), inputs=N).arun(n=1))
    assert traces.tree()["GET"] == "fetching"


def test_rounds_and_what_stopped_a_loop(traces: Traces):
    Pipeline(Loop(Add(by=2), until=at_least(bound=5), at_most=9, otherwise=Add()), inputs=N).run(n=0)
    loop = traces.about("loop")
    assert (loop["rag.rounds"], loop["rag.stopped"]) == (3, "'enough' is true")
    rounds = [(s.attributes or {})["rag.round"] for s in traces.spans if (s.attributes or {})["rag.node"] == "add"]
    assert rounds == [1, 2, 3]
    traces.exporter.clear()
    Pipeline(Loop(Add(), until=at_least(bound=5), at_most=2, otherwise=Add(by=50)), inputs=N).run(n=0)
    assert traces.about("loop")["rag.stopped"] == "2 rounds are the bound"
    assert "rag.round" not in traces.about("add:2")  # what runs afterwards is in no round


def test_errors_have_type_and_message(traces: Traces):
    pipeline = Pipeline(Add() >> Try(Fail(), retries=1, backoff=0), inputs=N, name="p")
    with pytest.raises(OperatorError):
        pipeline.run(n=1)
    for node in ("try", "p"):
        assert traces.of(node).status.status_code is StatusCode.ERROR
        assert traces.about(node)["error.type"] == "ZeroDivisionError"
        assert "n was 2" in str(traces.of(node).status.description)
    failed = [s for s in traces.spans if s.name == "execute_tool testing.fail"]
    assert len(failed) == 2
    assert {event.name for s in failed for event in s.events} == {"exception"}
    assert traces.about("try")["rag.failed_tries"] == (1, 2)
    assert traces.of("add").status.status_code is StatusCode.UNSET


def test_a_failure_that_was_caught_does_not_mark_the_run(traces: Traces):
    Pipeline(Try(Fail(), fallback=Add()), inputs=N, name="p").run(n=1)
    assert traces.of("p").status.status_code is StatusCode.UNSET
    assert traces.of("fail").status.status_code is StatusCode.ERROR


def test_results_from_the_cache_are_marked(traces: Traces):
    pipeline = Pipeline(Slow(), inputs=N, cache=ContentCache())
    pipeline.run(n=1)
    (node,) = traces.tree().keys() - {"pipeline"}
    assert "rag.cache.hits" not in traces.about(node)
    traces.exporter.clear()
    pipeline.run(n=1)
    assert traces.about(node)["rag.cache.hits"] == 1


def test_a_batch_is_one_span_a_node_and_items_are_counted(traces: Traces):
    Pipeline(letters() >> Each(size()) >> Total()).run_batch(["abc", "de"])
    assert [(s.attributes or {})["rag.items"] for s in traces.spans] == [2, 2, 2, 5, 2]
    assert traces.about("letters")["rag.wrote.queries"] == 5


def test_contents_are_left_out(traces: Traces, kb: Collection):
    answering(kb).run("Who wrote the first program?")
    told = json.dumps(
        [[s.name, dict(s.attributes or {}), [dict(e.attributes or {}) for e in s.events]] for s in traces.spans]
    )
    for content in ("Lovelace", "wrote the first", "first program author"):
        assert content not in told
    assert "Ada" not in told


def test_contents_are_let_in_by_one_setting(traces: Traces, kb: Collection, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(CAPTURE, "true")
    answering(kb).run("Who wrote the first program?")
    whole = traces.about("asking")
    asked = json.loads(whole["gen_ai.input.messages"])
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": "Who wrote the first program?"}]}]
    assert "Ada" in whole["gen_ai.output.messages"]
    found = traces.about("dense")
    assert found["gen_ai.retrieval.query.text"] == "first program author"
    (document,) = json.loads(found["gen_ai.retrieval.documents"])
    assert set(document) == {"id", "score"}
    (call,) = traces.of("generate").events
    assert SECRET in str((call.attributes or {})["gen_ai.input.messages"])


def test_streams_and_async_calls_of_models_are_counted(traces: Traces):
    @operator
    async def ask_politely(n: int, llm: ChatModel) -> Number:
        await llm.achat([Message("user", "one two")], max_tokens=9)
        return n

    Pipeline(ask_politely() >> Say(), inputs=N, llm=ScriptedModel("three words here")).run(n=1)
    chat = traces.about("ask_politely")
    assert (chat["gen_ai.usage.input_tokens"], chat["gen_ai.usage.output_tokens"]) == (2, 3)
    assert chat["gen_ai.request.max_tokens"] == 9


def test_a_prompt_read_with_a_cache_is_told(traces: Traces):
    @operator(waits=True)
    def ask_twice(n: int, llm: ChatModel) -> Number:
        return n + sum(len(llm.chat([Message("user", "one")]).text) for _ in range(2))

    rows = SegmentReport("chunk", 30, 25, 5, 4, "reused"), SegmentReport("question", 10, 0, 10, 0, "computed")
    said = Completion("yes", Usage(40, 1, 1, cached_tokens=25), prefill=Report("first", False, rows))
    run = Run()
    Pipeline(ask_twice() >> Say(), inputs=N, llm=ScriptedModel([said, said, "no"])).run(n=1, observe=run)
    asked, other = (traces.about(node) for node in ("ask_twice", "say"))
    assert asked["gen_ai.usage.cache_read.input_tokens"] == 50
    assert (asked["rag.kvcache.recomputed"], asked["rag.kvcache.stored"], asked["rag.kvcache.exact"]) == (30, 8, False)
    assert not any("cache" in attribute for attribute in other)
    spans = {span.node: span for span in run.spans}
    assert spans["ask_twice"].prefills == (said.prefill, said.prefill)
    assert "25 of 40 tokens reused" in spans["ask_twice"].note
    assert "(2×)" in spans["ask_twice"].note
    assert spans["say"].prefills == ()
    assert {span.usage.cached_tokens for span in run.spans if span.kind == "pipeline"} == {50}


def test_without_a_provider_nothing_is_observed():
    assert not tracing()
    pipeline = Pipeline(Add(), inputs=N)
    assert pipeline._observed(None) is None
    program = "import sys; from rag import Pipeline; import rag.pipelines; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "False"
