"""Work that is lost is told, and what is sound is left in peace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from rag.collection import Collection
from rag.operators import Flow, operator
from rag.operators.generation import ExtractiveAnswer
from rag.operators.orchestration import Relevant, SelectRetriever
from rag.operators.post_retrieval import BuildContext
from rag.operators.pre_retrieval import AddAnswer, MultiQuery, Rewrite, StepBack, SubQueries
from rag.operators.retrieval import BM25, Dense, Fuse
from rag.pipelines import Each, Loop, Pipeline, Recurse, Route, Try, Verify
from rag.serve import cli
from rag.serve.pipelines import PRESETS, preset_names
from rag.types import Hits, Query
from tests.pipelines.conftest import Add, CountWords, Say, Total, shout
from tests.pipelines.test_patterns import at_least, free_route, letters, remember, shorter, size


def warnings(flow: Flow) -> tuple[str, ...]:
    return Pipeline(flow).plan.warnings


@pytest.mark.parametrize("name", preset_names())
def test_ready_made_pipelines_lose_nothing(name: str):
    assert Pipeline.from_yaml(PRESETS / f"{name}.yaml").plan.warnings == ()


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        (Dense() >> BM25(), "node 'dense': writes channel 'hits', which 'bm25' writes over before anything reads it"),
        (Dense() >> BM25(), "join the two as branches, (a | b) >> fuse"),
        (Dense() >> Rewrite(), "node 'rewrite': writes channel 'query', which nothing after it reads"),
        (Dense() >> Rewrite(), "put it before what should read it"),
        ((Dense() | BM25()) >> Fuse() >> StepBack(), "node 'step_back': writes channel 'queries', which nothing after"),
        (Dense() >> SelectRetriever(), "node 'select_retriever': writes channel 'route', which nothing after"),
        (MultiQuery() >> Dense(), "node 'multi_query': writes channel 'queries'"),
        (Dense() >> BuildContext() >> BuildContext(), "'build_context:2' writes over before anything reads it"),
        (CountWords() >> CountWords(), "node 'count_words': writes channel 'n', 'topic', which 'count_words:2' writes"),
        ((Rewrite() | Dense()) >> BuildContext(), "node 'rewrite': writes channel 'query', which nothing after"),
        (SubQueries() >> Each(Dense() >> BM25()) >> Fuse(), "node 'dense': writes channel 'hits', which 'bm25' writes"),
        (Loop(Dense() >> BM25()), "node 'dense': writes channel 'hits', which 'bm25' writes over"),
        (Route(free_route(), a=Dense(), b=BM25()) >> BM25(), "node 'dense': writes channel 'hits', which 'bm25:2'"),
        (
            Pipeline(Dense() >> BM25(), name="search") >> BuildContext(),
            "in 'search', node 'dense': writes channel 'hits'",
        ),
        (Pipeline(Dense(), name="search") >> BM25(), "node 'search': writes channel 'hits', which 'bm25' writes over"),
        (
            Recurse(size(), derive=shorter(), max_depth=0),
            "node 'recurse': its `derive` never runs, since max_depth is 0",
        ),
        (Recurse(size(), derive=shorter(), max_nodes=1), "its `derive` never runs, since max_nodes is 1"),
    ],
)
def test_lost_work_is_told(flow: Flow, expected: str):
    assert any(expected in warning for warning in warnings(flow)), warnings(flow)


class Both(NamedTuple):
    hits: Hits
    note: str


@operator(name="testing.two_values")
def two_values(query: Query) -> Both:
    """Hits and a remark about them."""
    return Both(Hits(), "none")


@pytest.mark.parametrize(
    "flow",
    [
        Rewrite(),  # a query is a result where nothing else is
        MultiQuery(),
        SelectRetriever(),
        Dense() >> BuildContext(),  # hits, context and answer are looked at side by side
        two_values() >> Dense(),  # one of its values stays
        Dense() >> Relevant(),  # used for its hits, not for its route
        CountWords() >> Say(),
        Loop(AddAnswer() >> Dense() >> BuildContext() >> ExtractiveAnswer()),  # the next round reads the answer
        CountWords() >> Loop(Add() >> remember(), at_most=2),
        CountWords() >> Verify(Add(), check=at_least(bound=3)),
        CountWords() >> Try(Add(), fallback=Add(by=2)),
        Route(free_route(), a=Dense(), b=BM25()) >> BuildContext(),
        (CountWords() | shout() >> CountWords()) >> Total(),
        letters() >> Each(size()) >> Total(),
        Recurse(Dense() >> BuildContext(), derive=shorter()),
        Pipeline(Rewrite()) >> Dense(),
    ],
)
def test_sound_flows_are_left_in_peace(flow: Flow):
    assert warnings(flow) == ()


LOST = "flow:\n  - dense\n  - bm25\n"


def test_warnings_have_lines_and_stand_in_explain(tmp_path: Path):
    pipeline = Pipeline.from_yaml(LOST)
    (warning,) = pipeline.plan.warnings
    assert warning.startswith("node 'dense' (line 2): ")
    assert pipeline.explain().splitlines()[-1] == f"warning {warning}"
    assert "warning" not in Pipeline(Dense()).explain()


def test_rewriting_keeps_the_warnings_of_what_was_written():
    text = "flow:\n  - dense: {k: 1000}\n  - top\n  - rewrite\n"
    assert ["(line 4)" in warning for warning in Pipeline.from_yaml(text).plan.warnings] == [True]


def test_check_tells_warnings_and_a_run_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "lost.yaml"
    file.write_text(LOST, encoding="utf-8")
    Collection.create(tmp_path / "kb", encoder="hashing:8").close()
    assert cli.run(["check", str(file)]) == 0
    said = capsys.readouterr()
    assert "warning node 'dense' (line 2)" in " ".join(said.out.split())
    assert "fits together, with 1 warning" in " ".join(said.err.split())
    assert cli.run(["check", str(file), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 1
    assert cli.run(["run", str(file), "any", "-c", str(tmp_path / "kb")]) == 0
    assert "warning" not in capsys.readouterr().out
