"""YAML in and out: what is dumped loads to an equal pipeline, and what is wrong is told with its line."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import ConfigError, FlowError, NotFoundError
from rag.operators import Flow
from rag.pipelines import Pipeline
from rag.pipelines.schema import pipeline_schema
from tests.pipelines.conftest import Add, CountWords, Fail, Say, Total, shout

EXAMPLE = """\
name: numbers
description: Counts words.
flow:
  - count_words
  - parallel:
      - add: {by: 10}
      - - testing.add
        - add:
            by: 5
  - total
"""


def test_yaml_is_the_tree_of_the_flow():
    loaded = Pipeline.from_yaml(EXAMPLE)
    written = Pipeline(
        CountWords() >> (Add(by=10) | (Add() >> Add(by=5))) >> Total(), name="numbers", description="Counts words."
    )
    assert loaded == written
    assert loaded.run("a b").n == 12 + 8


def test_only_what_differs_from_the_defaults_is_written():
    assert yaml.safe_load(Pipeline(CountWords() >> Add(by=1) >> Add(by=3)).to_yaml()) == {
        "flow": ["count_words", "add", {"add": {"by": 3}}]
    }


def test_resources_and_inputs_are_kept():
    pipeline = Pipeline(
        Add(), collection="kb", llm="scripted", inputs={"n": int, "query": shout.signature().reads[0].type}
    )
    again = Pipeline.from_yaml(pipeline.to_yaml())
    assert again == pipeline
    assert Pipeline.from_yaml(pipeline.to_yaml(), collection="other").resources["collection"] == "other"


operators = st.one_of(
    st.integers(-100, 100).map(lambda by: Add(by=by)),
    st.just(Total()),
    st.integers(0, 9).map(lambda marks: shout(marks=marks)),
)
flows = st.recursive(
    operators,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: _chain(parts)),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: _fan(parts)),
    ),
    max_leaves=10,
)


def _chain(parts: list[Flow]) -> Flow:
    first, *rest = parts
    for part in rest:
        first = first >> part
    return first


def _fan(parts: list[Flow]) -> Flow:
    first, *rest = parts
    for part in rest:
        first = first | part
    return first


@given(flow=flows)
@settings(max_examples=60, deadline=None)
def test_random_pipelines_survive_the_round_trip_and_fit_the_schema(flow: Flow):
    try:
        pipeline = Pipeline(CountWords() >> flow)
    except FlowError:
        return  # a graph that is refused has no YAML
    text = pipeline.to_yaml()
    again = Pipeline.from_yaml(text)
    assert again == pipeline
    assert again.to_yaml() == text
    VALIDATOR.validate(yaml.safe_load(text))


VALIDATOR = jsonschema.Draft202012Validator(pipeline_schema())


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("flow:\n  - count_word\n", 2, "no operator is named 'count_word' (did you mean 'count_words'?)"),
        ("flow:\n  - count_words\n  - add:\n      bye: 1\n", 4, "has no setting 'bye' (did you mean 'by'?)"),
        ("flow:\n  - count_words\n  - add:\n      by: much\n", 4, "'by' is 'much' (str)"),
        ("flow:\n  - count_words\n  - add: {by: 1000}\n", 3, "less than or equal to 100"),
        ("flow:\n  - count_words\n  - add: 7\n", 3, "this is a single value"),
        ("flow:\n  - add: {}\n    total: {}\n", 2, "a node has one key"),
        ("flows:\n  - add\n", 1, "unknown key 'flows' (did you mean 'flow'?)"),
        ("name: x\n", 1, "the key `flow` is missing"),
        ("flow:\n  - count_words\n  - parallel: add\n", 3, "`parallel` holds a list"),
        ("flow:\n  - parallel: []\n", 2, "`parallel` holds a list"),
        ("flow: []\n", 1, "empty list"),
        ("flow:\n  - add\n  - [\n", 4, "not YAML"),
        ("flow: &a\n  - count_words\n  - *a\n", 1, "contains itself"),
        ("name: a\nname: b\nflow: [count_words]\n", 2, "key 'name' stands twice"),
        ("flow:\n  - add: {by: !!python/object/apply:os.system [ls]}\n", 2, "is not allowed"),
        ("flow:\n  - add: {by: 2020-13-45}\n", 2, "not a plain value"),
        ("inputs: {n: number}\nflow: [add]\n", 1, "unknown type 'number'"),
        ("- add\n- total\n", 1, "a pipeline must be written as"),
        ("\n", None, "the file is empty"),
    ],
)
def test_wrong_yaml_names_the_line(text: str, line: int | None, message: str):
    with pytest.raises(ConfigError) as caught:
        Pipeline.from_yaml(text)
    assert message in str(caught.value)
    if line is not None:
        assert f"line {line}:" in str(caught.value)


def test_a_graph_that_does_not_fit_names_node_and_line():
    with pytest.raises(FlowError, match=r"node 'say' \(line 4\): reads channel 'n'"):
        Pipeline.from_yaml("# comment\nflow:\n  - shout\n  - say\n")


def test_aliases_cannot_multiply_without_bound():
    layers = ["  - &x0 [count_words, add]"] + [f"  - &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="unfolds to more than"):
        Pipeline.from_yaml("flow:\n" + "\n".join(layers) + "\n")


def test_files_that_are_not_there_or_not_text(tmp_path: Path):
    with pytest.raises(NotFoundError, match="no pipeline file"):
        Pipeline.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "junk.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="cannot read pipeline file"):
        Pipeline.from_yaml(tmp_path / "junk.yaml")


def test_operators_without_a_name_have_no_yaml():
    from rag.operators import operator
    from rag.types import Answer, Query

    @operator
    def local(query: Query) -> Answer:
        return Answer(query.text)

    with pytest.raises(ConfigError, match="no name of its own"):
        Pipeline(local()).to_yaml()


def test_the_schema_knows_every_operator_and_its_bounds():
    schema = pipeline_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$defs"]["testing.add"]["properties"]["by"]["maximum"] == 100
    VALIDATOR.validate(yaml.safe_load(EXAMPLE))
    for wrong in (
        {"flow": [{"add": {"by": 1000}}]},
        {"flow": ["count_word"]},
        {"flows": []},
        {"flow": [{"add": {"x": 1}}]},
    ):
        assert not VALIDATOR.is_valid(wrong)


def test_failing_operators_can_still_be_described():
    assert Pipeline(CountWords() >> Fail() >> Say()).to_yaml().endswith("- count_words\n- fail\n- say\n")
