"""From a question to a metadata filter, never to a wrong one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.collection import Collection
from rag.models.scripted import ScriptedModel
from rag.operators.pre_retrieval import FilterFromQuery
from rag.operators.retrieval import BM25
from rag.pipelines import Pipeline
from rag.types import Query

QUESTION = Query("what was written about boats since 2019?")


@pytest.mark.parametrize(
    "reply", ["year >= 2019", "Filter: year >= 2019", "```\nyear >= 2019\n```", "`year >= 2019`\nsince it says so"]
)
def test_a_valid_expression_becomes_the_filter(kb: Collection, reply: str):
    made = FilterFromQuery().run(QUESTION, ScriptedModel(reply), kb)
    assert (made.text, made.filter) == (QUESTION.text, "year >= 2019")


@pytest.mark.parametrize(
    "reply",
    [
        "none",
        "None.",
        "",
        "year >=",
        "author == 'me'",
        "year >= 2019 or author == 'me'",
        "year > 3000",
        "import os",
        "SELECT * FROM x",
        "year >= 2019)",
    ],
)
def test_what_the_collection_cannot_use_is_no_filter(kb: Collection, reply: str):
    assert FilterFromQuery().run(QUESTION, ScriptedModel(reply), kb) is QUESTION


def test_a_filter_that_is_there_must_hold_as_well(kb: Collection):
    asked = Query(QUESTION.text, filter='topic == "money" or year == 2018')
    made = FilterFromQuery().run(asked, ScriptedModel("year >= 2019"), kb)
    assert made.filter == '(topic == "money" or year == 2018) and (year >= 2019)'
    assert kb.select(made.filter).tolist() == [2]
    assert FilterFromQuery().run(asked, ScriptedModel("year == 2019"), kb) is asked  # together they leave nothing


def test_a_reply_cannot_break_out_of_its_brackets(kb: Collection):
    asked = Query(QUESTION.text, filter="year == 2018")
    assert FilterFromQuery().run(asked, ScriptedModel("year > 0) or (year > 0"), kb) is asked


def test_the_model_is_told_the_fields_and_some_values(kb: Collection):
    llm = ScriptedModel("none")
    FilterFromQuery().run(QUESTION, llm, kb)
    prompt = llm.calls[0].messages[-1].content
    assert "year: 2018, 2019, 2020, 2021" in prompt
    assert 'topic: "weather", "money"' in prompt
    assert 'document: "winter.md"' in prompt
    FilterFromQuery(fields=("topic",)).run(QUESTION, llm, kb)
    assert "year:" not in llm.calls[1].messages[-1].content.partition("Fields")[2]


def test_retrieval_obeys_it(kb: Collection):
    pipeline = Pipeline(FilterFromQuery() >> BM25(), collection=kb, llm=ScriptedModel('topic == "money"'))
    assert [c.document for c in pipeline.run("boat").hits.chunks()] == ["rent.md"]


@settings(max_examples=100)
@given(st.text("year><=0129 andort()\"'topic.,`[]", max_size=40))
def test_any_reply_gives_a_query_that_can_be_searched(kb: Collection, reply: str):
    made = FilterFromQuery().run(QUESTION, ScriptedModel(reply), kb)
    assert made.filter is None or len(kb.select(made.filter))
