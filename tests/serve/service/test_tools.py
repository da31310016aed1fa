"""Pipelines as functions for agents: schemas that hold, arguments that are checked, results that fit their schema."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest
from jsonschema import Draft202012Validator

from rag.collection import Collection
from rag.errors import ConfigError, InputError
from rag.operators import operator
from rag.pipelines import Pipeline
from rag.serve.tools import Tool, call, function_schema
from rag.types import Answer, Hits, Message, Query
from tests.serve.service import samples


def test_both_styles_name_the_pipeline_and_type_its_arguments(collection: Collection):
    pipeline = samples.quoting(collection)
    anthropic = function_schema(pipeline, "anthropic")
    openai = function_schema(pipeline)
    assert openai["type"] == "function"
    assert openai["function"]["parameters"] == anthropic["input_schema"]
    assert (anthropic["name"], anthropic["description"]) == ("quoting", "Answers with a sentence of the documents.")
    schema = anthropic["input_schema"]
    Draft202012Validator.check_schema(schema)
    assert schema["required"] == ["query"]
    assert set(schema["properties"]) == {"query", "filter", "memory"}
    assert all(p.get("description") for name, p in schema["properties"].items() if name != "memory")
    assert schema["additionalProperties"] is False
    with pytest.raises(ConfigError, match="no style 'gemini'"):
        function_schema(pipeline, "gemini")  # type: ignore[arg-type]


def test_names_are_what_model_apis_allow(collection: Collection):
    assert function_schema(samples.hybrid(collection), "anthropic", name="Größe: v2")["name"] == "Gr__e__v2"


@pytest.mark.parametrize("make", [samples.hybrid, samples.quoting, samples.every_flow])
def test_results_fit_the_schema_that_is_told(collection: Collection, make):
    tool = Tool(make(collection))
    schema = tool.output_schema()
    Draft202012Validator.check_schema(schema)
    result = call(tool.pipeline, {"query": "what controls a sail"})
    Draft202012Validator(schema).validate(result)
    assert result.keys() == schema["properties"].keys()


def test_hits_are_cut_to_the_limit_and_answers_cite_the_text(collection: Collection, documents: Path):
    hits = call(samples.hybrid(collection), {"query": "roux", "limit": 2})["hits"]
    assert [h["rank"] for h in hits] == [1, 2]
    assert hits[0]["document"] == "sub/cooking.txt"
    only = call(samples.hybrid(collection), {"query": "roux", "filter": "year == 2021"})["hits"]
    assert {h["document"] for h in only} == {"sailing.md"}
    answer = call(samples.quoting(collection), {"query": "what is a roux made of?"})["answer"]
    (cited,) = answer["citations"]
    text = (documents / cited["document"]).read_text(encoding="utf-8")
    assert text[cited["start"] : cited["end"]] == cited["quote"]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ({}, "argument 'query' is missing", "query, filter"),
        ({"query": 3}, "argument 'query': Input should be a valid string", None),
        ({"query": ""}, "argument 'query'", None),
        ({"query": "x", "limit": "3"}, "argument 'limit'", None),
        ({"query": "x", "limit": 0}, "argument 'limit'", None),
        ({"query": "x", "fliter": "a"}, "no argument 'fliter'", "did you mean 'filter'"),
        (["query"], "no JSON object", None),
        (b"{", "no JSON object", None),
        (b"\xff", "no JSON object", None),
        ({"query": float("nan")}, "argument", None),
        ({"query": {1, 2}}, "no JSON object", None),
    ],
)
def test_wrong_arguments_are_told(collection: Collection, arguments, message: str, hint: str | None):
    with pytest.raises(InputError, match=message) as caught:
        Tool(samples.hybrid(collection)).parse(arguments)
    if hint:
        assert hint in (caught.value.hint or "")


def test_inputs_of_any_name_and_json_type():
    @operator
    def act(copy: str, count: int, queries: list[Query], memory: Optional[list[Message]] = None) -> Answer:
        """All kinds of inputs."""
        return Answer(f"{copy} {count} {queries[0].text} {memory[0].content if memory else '-'}")

    inputs = {"copy": str, "count": int, "queries": list[Query]}
    pipeline = Pipeline(act(), inputs=inputs)
    given = {"copy": "a", "count": 2, "queries": ["q"], "memory": [{"role": "user", "content": "hello"}]}
    assert call(pipeline, given)["answer"]["text"] == "a 2 q hello"
    assert call(pipeline, {k: given[k] for k in inputs})["answer"]["text"] == "a 2 q -"
    assert "filter" not in Tool(pipeline).input_schema()["properties"]
    with pytest.raises(InputError, match="argument 'count'"):
        call(pipeline, {**given, "count": 2.5})


def test_an_input_that_json_cannot_hold_is_refused():
    @operator
    def count(hits: Hits) -> Answer:
        """Count."""
        return Answer(str(len(hits)))

    with pytest.raises(ConfigError, match="takes 'hits' of type Hits, which JSON cannot hold"):
        Tool(Pipeline(count(), inputs={"hits": Hits}))
