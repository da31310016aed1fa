"""The tree that `rag run --trace` shows."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.console import Console

from rag.errors import OperatorError
from rag.models import Completion
from rag.models.scripted import ScriptedModel
from rag.pipelines import ContentCache, Loop, Pipeline, Route, Run, Span, Try
from rag.serve.trace import trace_tree
from rag.types import Usage
from tests.pipelines.conftest import Add, Fail, Total
from tests.pipelines.test_flows import N
from tests.pipelines.test_memo import Slow
from tests.pipelines.test_observe import blocking
from tests.pipelines.test_patterns import at_least, parity


def shown(spans: list[Span], width: int = 90) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(trace_tree(spans, width))
    return [line.rstrip() for line in capture.get().splitlines()]


def nodes(lines: list[str]) -> list[str]:
    """The lines up to the end of the node's name."""
    return [re.match(r"[ │├╰─]*\S+( \S+)*", line).group() for line in lines]  # type: ignore[union-attr]


def traced(pipeline: Pipeline, *starts: Any) -> list[Span]:
    run = Run()
    pipeline.run_batch(list(starts), observe=run)
    return run.spans


def test_rounds_branches_and_ways_stand_where_they_belong():
    body = (Add() | Add() >> Add(by=2)) >> Total()
    flow = Route(parity(), even=Loop(body, until=at_least(bound=20), at_most=3), odd=Add()) >> Add(by=3)
    lines = shown(traced(Pipeline(flow, inputs=N, name="p"), {"n": 2}))
    assert nodes(lines)[1:] == [
        "p",
        "├─ route",
        "│  ├─ parity",
        "│  ╰─ loop",
        "│     ├─ round 1",
        "│     │  ├─ parallel",
        "│     │  │  ├─ add",
        "│     │  │  ╰─ branch 2",
        "│     │  │     ├─ add:2",
        "│     │  │     ╰─ add:3",
        "│     │  ├─ total",
        "│     │  ╰─ at_least",
        "│     ╰─ round 2",
        "│        ├─ parallel",
        "│        │  ├─ add",
        "│        │  ╰─ branch 2",
        "│        │     ├─ add:2",
        "│        │     ╰─ add:3",
        "│        ├─ total",
        "│        ╰─ at_least",
        "╰─ add:5",
    ]
    told = "\n".join(lines)
    assert "took 'even'" in told
    assert "ended in round 2: 'enough' is true" in told
    assert "n 20" in told


def test_tokens_calls_and_items_are_shown():
    pipeline = Pipeline(blocking() >> Add(), inputs=N, llm=ScriptedModel("three words here"), name="p")
    lines = shown(traced(pipeline, {"n": 1}, {"n": 2}))
    assert [line.split()[:2] for line in lines[1:3]] == [["p", "×2"], ["├─", "blocking"]]
    assert "2× 4→6" in lines[1]
    assert "2× 4→6" in lines[2]
    assert "→" not in lines[3]


def test_tokens_out_of_a_cache_are_shown():
    said = Completion("yes", Usage(40, 1, 1, cached_tokens=30))
    lines = shown(traced(Pipeline(blocking(), inputs=N, llm=ScriptedModel([said]), name="p"), {"n": 1}))
    assert "40 (30 cached)→1" in lines[1]


def test_failures_are_told_in_full_where_they_began():
    run = Run()
    pipeline = Pipeline(Try(Fail(), retries=1, backoff=0, fallback=Add()) >> Try(Fail()), inputs=N, name="p")
    with pytest.raises(OperatorError):
        pipeline.run(n=1, observe=run)
    lines = shown(run.spans)
    assert nodes(lines)[1:] == ["p", "├─ try", "│  ├─ fail", "│  ├─ fail", "│  ╰─ add", "╰─ try:2", "   ╰─ fail:2"]
    assert "try 1 failed" in lines[2]
    assert lines[1].split()[:2] == ["p", "failed"]
    assert "OperatorError: ZeroDivisionError: n was 2" in lines[7]


def test_what_was_remembered_is_marked():
    pipeline = Pipeline(Slow(), inputs=N, cache=ContentCache())
    pipeline.run(n=1)
    assert "remembered" in shown(traced(pipeline, {"n": 1}))[2]
    assert "remembered 1 of 2" in shown(traced(pipeline, {"n": 1}, {"n": 2}))[2]


def test_what_runs_after_the_last_round_is_in_none():
    lines = shown(
        traced(Pipeline(Loop(Add(), until=at_least(bound=9), at_most=2, otherwise=Add()), inputs=N), {"n": 1})
    )
    assert nodes(lines)[-3:] == ["   │  ├─ add", "   │  ╰─ at_least", "   ╰─ add:2"]


def test_bars_show_when_something_ran():
    spans = [
        Span("a", 1.0, 2.0, number=1, parent=0),
        Span("b", 3.0, 2.0, number=2, parent=0, usage=Usage(10, 2, 1)),
        Span("p", 1.0, 4.0, kind="pipeline"),
    ]
    lines = shown(spans, width=110)
    bars = [line[-len(line.split("s", 1)[1]) :] for line in lines[1:]]
    assert [bar.count("█") for bar in bars] == [16, 8, 8]
    assert lines[3].endswith("█" * 8)
    assert len(lines[2]) < len(lines[3])
    assert "2.00 s" in lines[2]
    assert "█" not in "".join(shown(spans, width=80))


def test_a_trace_of_nothing_is_empty():
    assert len(shown([])) == 1
