"""Every operator that takes a language model runs with a real, small one: right types, and nothing made up.

Gemma 3 270M has not learned to follow instructions, so its replies are as good as nonsense to most operators: what
counts is that each does what it says it does then.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from rag.collection import Collection
from rag.models import ChatModel
from rag.operators import Operator
from rag.operators.asking import Asking
from rag.operators.generation import Ensemble, Generate
from rag.operators.registry import catalogue
from rag.operators.signature import strip_optional
from rag.pipelines import Pipeline
from rag.types import Answer, Chunk, Citation, Context, Document, Hits, Message, Passage, Query

pytestmark = [pytest.mark.slow, pytest.mark.torch]

OPERATORS = {
    name: cls
    for name, cls in catalogue().items()
    if any(need.type is ChatModel for need in cls.signature().resources)
    and not name.startswith(("custom.", "testing."))
}
QUESTION = "What does renting a boat cost, and when do boats sail?"
SETTINGS: dict[str, dict[str, Any]] = {
    "orchestration.route_by_model": {"routes": {"fact": "one fact", "summary": "an overview"}, "default": "fact"},
    "pre_retrieval.sql_from_query": {"database": "boats.sqlite"},
    "post_retrieval.compress": {"max_tokens": 16},
    "post_retrieval.critique": {"k": 3},
    "orchestration.relevant": {"k": 2},
}


def test_all_of_them_are_here():
    assert len(OPERATORS) >= 26
    assert {name.partition(".")[0] for name in OPERATORS} == {
        "pre_retrieval", "post_retrieval", "generation", "orchestration",
    }  # fmt: skip


@pytest.fixture
def inputs(kb: Collection) -> dict[str, Any]:
    """A value for each channel that they read."""
    ids = kb.chunk_ids()
    chunks = kb.chunks(ids)
    passages = (
        Passage(n, c.id, c.document, c.text, c.start, c.end, 1, 1 / n, c.metadata) for n, c in enumerate(chunks, 1)
    )
    rent = next(c for c in chunks if c.document == "rent.md")
    place = Citation(1, rent.id, rent.document, 0, len(rent.text), 1, rent.text)
    answer = Answer("A boat costs twenty euros an hour [1].", (place,))
    return {
        "query": Query(QUESTION),
        "queries": [Query(QUESTION), Query("boat rent per hour")],
        "hits": Hits(ids, [1.0, 0.5, 0.3, 0.2], store=kb),
        "context": Context(tuple(passages)),
        "answer": answer,
        "draft": Answer("Boats sail in summer."),
        "memory": [Message("user", "Are there boats?"), Message("assistant", "Yes, on the lake.")],
        "document": Document("rent.md", rent.text, {"title": "Rent"}),
        "chunks": [Chunk("rent.md", rent.text, 0, len(rent.text))],
    }


def make(name: str, cls: type[Operator]) -> Operator:
    settings = SETTINGS.get(name, {})
    if issubclass(cls, Asking | Generate | Ensemble):
        settings = {"max_tokens": 6, **settings}
    return cls(**settings)


def fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(fits(item, get_args(kind)[0]) for item in value)
    return isinstance(value, kind)


def check(channel: str, value: Any, given: dict[str, Any], kb: Collection) -> None:
    """What holds of a channel whatever a model says."""
    if channel == "queries":
        assert value
        assert all(q.text.strip() for q in value)
    elif channel == "query":
        assert value.text.strip()
    elif channel == "hits":
        assert set(value.ids.tolist()) <= set(given["hits"].ids.tolist())
    elif channel == "context":
        assert [p.number for p in value] == list(range(1, len(value) + 1))
        assert all(kb.text(p.document, p.start, p.end) == p.text for p in value)
        assert all(set(p.reading.split()) <= set(p.text.split()) for p in value)
    elif channel == "answer":
        assert value.text.strip()
        assert all(kb.text(c.document, c.start, c.end) == c.quote for c in value.citations)
    elif channel == "chunks":
        assert len(value) == len(given["chunks"])
    elif channel == "sql":
        assert value == "" or re.match(r"(select|with)\b", value, re.IGNORECASE)
    elif channel == "route":
        assert value


@pytest.mark.parametrize("name", OPERATORS)
def test_it_runs_on_a_real_model(
    name: str, gemma: ChatModel, kb: Collection, inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAG_FILES", str(tmp_path))
    with sqlite3.connect(tmp_path / "boats.sqlite") as db:
        db.execute("CREATE TABLE boats (name TEXT, euros REAL)")
    db.close()
    cls = OPERATORS[name]
    signature = cls.signature()
    given = {read.channel: inputs[read.channel] for read in signature.reads}
    kinds = {read.channel: strip_optional(read.type)[0] for read in signature.reads}
    for channel, kind in kinds.items():
        if get_origin(kind) is list and not isinstance(given[channel], list):
            given[channel] = [given[channel], Answer("Boats sail in summer.")]
    operator = make(name, cls)
    pipeline = Pipeline(operator, collection=kb, llm=gemma, inputs=kinds)
    state = pipeline.run(given)
    for write in signature.writes:
        assert fits(state[write.channel], write.type), write
        check(write.channel, state[write.channel], inputs, kb)
