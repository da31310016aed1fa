"""All operators that ask a model: prompts, windows, batches, meters, replies that make no sense."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.collection import Collection
from rag.errors import ConfigError, ModelError, NotFoundError
from rag.models import Completion
from rag.models.scripted import ScriptedModel
from rag.operators import Operator, catalogue
from rag.operators.asking import Asking
from rag.operators.orchestration import Sufficient
from rag.operators.pre_retrieval import HistoryQuery, Rewrite, StepBack
from rag.pipelines import Budget, Loop, Pipeline, Run
from rag.pipelines.meter import metering
from rag.types import Answer, Chunk, Context, Document, Hits, Message, Passage, Query, Usage

SETTINGS: dict[str, dict[str, Any]] = {
    "orchestration.route_by_model": {"routes": {"a": "the first", "b": "the second"}, "default": "b"},
    "pre_retrieval.sql_from_query": {"database": "shop.sqlite"},
}
MODULES = ("pre_retrieval.", "orchestration.")
ASKING = [(name, cls) for name, cls in catalogue().items() if name.startswith(MODULES) and issubclass(cls, Asking)]
NONSENSE = [
    "",
    "   \n\n",
    "???",
    "{",
    '["',
    "Sure! I can help with that.",
    "<think>",
    "```sql\n```",
    "yes no yes",
    "\x00",
]


def channels(kb: Collection) -> dict[str, Any]:
    hits = Hits(kb.chunk_ids(), np.linspace(1, 0.5, len(kb)), store=kb)
    passage = Passage(1, 0, "d", "boats sail", 0, 10, 1, 1.0)
    return {
        "query": Query("when do boats sail in 2019?", vector=None),
        "queries": [Query("when do boats sail?"), Query("what is a boat?")],
        "memory": [Message("user", "hello"), Message("assistant", "good day")],
        "hits": hits,
        "context": Context((passage,)),
        "answer": Answer("in summer"),
        "draft": Answer("in summer"),
        "document": Document("d", "boats sail", {"title": "Boats"}),
        "chunks": [Chunk("d", "boats sail", 0, 10)],
    }


def call(operator: Operator, kb: Collection, llm: ScriptedModel) -> Any:
    known = channels(kb)
    signature = type(operator).signature()
    resources = {"llm": llm, "collection": kb, "encoder": kb.encoder}
    needed = {r.channel: resources[r.channel] for r in signature.resources}
    return operator.run(*[known[read.channel] for read in signature.reads], **needed)


def call_batch(operator: Operator, kb: Collection, llm: ScriptedModel, items: int) -> Any:
    known = channels(kb)
    signature = type(operator).signature()
    resources = {"llm": llm, "collection": kb, "encoder": kb.encoder}
    needed = {r.channel: resources[r.channel] for r in signature.resources}
    return operator.run_batch(*[[known[read.channel]] * items for read in signature.reads], **needed)


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("shop.sqlite") as db:
        db.execute("CREATE TABLE boats (name TEXT)")
    db.close()


def test_the_modules_are_complete():
    assert len(ASKING) >= 16
    names = {name.rpartition(".")[2] for name, cls in catalogue().items() if name.startswith(MODULES)}
    assert names >= {
        "rewrite", "hyde", "reverse_hyde", "step_back", "multi_query", "sub_queries", "cove", "filter_from_query",
        "sql_from_query", "run_sql", "history_query", "route_by_keywords", "route_by_similarity", "route_by_classifier",
        "route_by_model", "route_hybrid", "route_by_metadata", "select_retriever", "sufficient", "confident",
        "needs_retrieval", "has_hits", "relevant", "remember", "answer_cache", "plan",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "cls"), ASKING, ids=[name for name, _ in ASKING])
def test_nonsense_has_an_end_that_is_no_error(name: str, cls: type[Asking], kb: Collection):
    operator = cls(**SETTINGS.get(name, {}))
    for reply in NONSENSE:
        result = call(operator, kb, ScriptedModel(reply))
        writes = cls.signature().writes
        values = result if cls.signature().record else [result]
        assert len(values) == len(writes)
        if writes[0].channel == "query":
            assert result.text.strip()
        if writes[0].channel == "queries":
            assert result
            assert all(q.text.strip() for q in result)


@pytest.mark.parametrize(("name", "cls"), ASKING, ids=[name for name, _ in ASKING])
def test_a_batch_is_what_single_runs_are(name: str, cls: type[Asking], kb: Collection):
    operator = cls(**SETTINGS.get(name, {}), concurrency=3)
    llm = ScriptedModel("yes\nwhen do boats sail on lakes?\nSELECT name FROM boats")
    one = call(operator, kb, llm)
    asked = len(llm.calls)
    assert asked >= 1
    assert call_batch(operator, kb, llm, 5) == [one] * 5
    assert len(llm.calls) == asked * 6
    assert call_batch(operator, kb, llm, 0) == []


@pytest.mark.parametrize(("name", "cls"), ASKING, ids=[name for name, _ in ASKING])
def test_a_model_that_fails_is_an_error(name: str, cls: type[Asking], kb: Collection):
    with pytest.raises(ModelError, match="gone"):
        call(cls(**SETTINGS.get(name, {})), kb, ScriptedModel([ModelError("gone")] * 9))


@pytest.mark.parametrize(("name", "cls"), ASKING, ids=[name for name, _ in ASKING])
def test_long_material_is_cut_to_the_models_window(name: str, cls: type[Asking], kb: Collection):
    known = channels(kb)
    long = "boats sail on the lake " * 2000
    known.update(
        query=Query(long),
        queries=[Query(long)],
        answer=None,
        draft=None,
        chunks=[Chunk("d", long, 0, len(long))],
        context=Context((Passage(1, 0, "d", long, 0, len(long), 1, 1.0),)),
        memory=[Message("user", long)],
    )
    if name in ("pre_retrieval.history_query", "pre_retrieval.rewrite", "orchestration.plan"):
        known["query"] = Query("and in winter?")
    if any(r.channel in ("context",) for r in cls.signature().reads) or name == "pre_retrieval.sql_from_query":
        known["query"] = Query("when?")
    if name in ("orchestration.relevant", "orchestration.route_by_model", "pre_retrieval.filter_from_query"):
        known["query"] = Query("when?")
    if name == "pre_retrieval.cove":
        known["queries"] = [Query("when?")]
    operator = cls(**SETTINGS.get(name, {}), max_tokens=16)
    llm = ScriptedModel("yes", context_tokens=400)
    resources = {"llm": llm, "collection": kb, "encoder": kb.encoder}
    signature = cls.signature()
    operator.run(
        *[known[r.channel] for r in signature.reads], **{r.channel: resources[r.channel] for r in signature.resources}
    )
    assert llm.calls


def test_a_conversation_loses_its_beginning_rather_than_its_end():
    llm = ScriptedModel("does the lake freeze in winter?", context_tokens=400)
    memory = [Message("user", "old " * 1000), Message("assistant", "the newest words")]
    HistoryQuery(max_tokens=16).run(Query("and in winter?"), memory, llm=llm)
    assert "the newest words" in llm.calls[0].messages[-1].content


def test_a_users_prompt_takes_the_place_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "step_back.md").write_text("Mine: {question}", encoding="utf-8")
    (tmp_path / "short.md").write_text("Short: {question}", encoding="utf-8")
    llm = ScriptedModel("ok")
    StepBack(prompts=str(tmp_path)).run(Query("why?"), llm)
    StepBack(prompts=str(tmp_path), prompt="short").run(Query("why?"), llm)
    monkeypatch.setenv("RAG_PROMPTS", str(tmp_path))
    StepBack().run(Query("why?"), llm)
    assert [call.messages[0].content for call in llm.calls] == ["Mine: why?", "Short: why?", "Mine: why?"]


def test_a_prompt_must_hold_its_placeholders(tmp_path: Path):
    (tmp_path / "step_back.md").write_text("no question here", encoding="utf-8")
    with pytest.raises(ConfigError, match="no placeholder {question}"):
        StepBack(prompts=str(tmp_path)).run(Query("why?"), ScriptedModel())
    (tmp_path / "step_back.md").write_text("{question} {passages}", encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown placeholder {passages}"):
        StepBack(prompts=str(tmp_path)).run(Query("why?"), ScriptedModel())
    with pytest.raises(NotFoundError, match="no prompt 'stepback'"):
        StepBack(prompt="stepback").run(Query("why?"), ScriptedModel())
    with pytest.raises(ConfigError, match="no name of a prompt"):
        StepBack(prompt="../step_back").run(Query("why?"), ScriptedModel())


def test_what_a_batch_consumes_is_counted():
    def reply(messages: Sequence[Message]) -> Completion:
        return Completion("ok", Usage(10, 1, 1))

    pipeline = Pipeline(StepBack(concurrency=4), llm=ScriptedModel(reply))
    with metering() as meter:
        pipeline.run_batch(["a", "b", "c"])
    assert meter.usage == Usage(30, 3, 3)


def test_the_budget_of_a_loop_sees_the_judge():
    llm = ScriptedModel(lambda messages: Completion("no", Usage(50, 1, 1)))
    loop = Loop(Rewrite(), until=Sufficient(), at_most=50, budget=Budget(calls=3))
    run = Run()
    state = Pipeline(loop, llm=llm, inputs=("query", "answer")).run("when?", answer=Answer("in summer"), observe=run)
    assert [span.note for span in run.spans if "ended in round 2" in span.note]
    assert state.sufficient is False
