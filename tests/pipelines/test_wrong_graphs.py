"""Graphs that cannot work are refused before anything runs: node, channel, line of the YAML, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from rag.errors import FlowError
from rag.operators import Channel, operator
from rag.pipelines import Pipeline
from rag.types import Hits, Query
from tests.pipelines import test_patterns  # noqa: F401  defines operators that are named below


@operator(name="testing.text_n")
def text_n(query: Query) -> Annotated[str, Channel("n")]:
    """A text where others expect a number."""
    return query.text


@operator(name="testing.text_hits")
def text_hits(query: Query) -> Annotated[str, Channel("hits")]:
    """A text where all expect hits."""
    return query.text


@operator(name="testing.read_typo")
def read_typo(queri: Query) -> Hits:
    """Its channel is misspelt."""
    return Hits()


@operator(name="testing.read_own")
def read_own(topic: str) -> Annotated[str, Channel("speech")]:
    """Reads what not everybody writes."""
    return topic


@operator(name="testing.read_error")
def read_error(error: str) -> Annotated[str, Channel("speech")]:
    """Reads what only a fallback has."""
    return error


@operator(name="testing.later")
def later(n: int, late: int) -> Annotated[int, Channel("late")]:
    """Needs its own result of the round before."""
    return n + late


@operator(name="testing.odd")
def odd(n: int) -> Annotated[bool, Channel("odd")]:
    """Whether n is odd."""
    return n % 2 == 1


@operator(name="testing.numbers")
def numbers(query: Query) -> Annotated[list[int], Channel("numbers")]:
    """Some numbers."""
    return [1, 2]


@operator(name="testing.only_simple")
def only_simple(query: Query) -> Annotated[Literal["simple"], Channel("route")]:
    """A router with one name."""
    return "simple"


@operator(name="testing.maybe_route")
def maybe_route(n: int) -> Annotated[str, Channel("route")]:
    """A router without a list of names."""
    return str(n)


@dataclass(frozen=True)
class Wrong:
    """A flow, and what has to be said about it; `line` counts from the first of the flow."""

    flow: str
    node: str
    line: int
    says: str
    fix: str
    inputs: str = ""


N = "inputs: {n: int}"

GRAPHS: dict[str, Wrong] = {
    "a channel that nothing writes": Wrong(
        "- count_words\n- build_context",
        "build_context",
        2,
        "reads channel 'hits' (Hits), which nothing before",
        "bm25",
    ),
    "a channel whose writer comes too late": Wrong(
        "- say\n- count_words", "say", 1, "reads channel 'n' (int), which nothing before", "count_words"
    ),
    "a misspelt channel": Wrong(
        "- dense\n- read_typo", "read_typo", 2, "reads channel 'queri' (Query)", "did you mean 'query'"
    ),
    "a channel of one branch read in another": Wrong(
        "- parallel:\n    - count_words\n    - say",
        "say",
        3,
        "reads channel 'n' (int)",
        "put one that writes it before",
    ),
    "another type": Wrong(
        "- text_n\n- add",
        "add",
        2,
        "reads channel 'n' as int, but it holds str, written by 'text_n'",
        "put an operator",
    ),
    "another type as an input": Wrong(
        "- add", "add", 1, "reads channel 'n' as int, but it holds str, an input", "put an operator", "inputs: {n: str}"
    ),
    "another type in a usual channel": Wrong(
        "- text_hits", "text_hits", 1, "writes str to channel 'hits', which holds Hits", "name another channel"
    ),
    "branches that nobody joins": Wrong(
        "- parallel: [dense, bm25]\n- build_context",
        *("build_context", 2, "reads channel 'hits' as Hits, but 'parallel' leaves one Hits a branch in it"),
        "join the branches first, with an operator that reads hits: list[Hits], for example fuse",
    ),
    "branches of different types": Wrong(
        "- parallel: [count_words, text_n]\n- total",
        *(
            "total",
            2,
            "reads channel 'n' as list[int], but 'parallel' leaves one int | str a branch",
            "join the branches",
        ),
    ),
    "one value joined as if there were several of another type": Wrong(
        "- text_n\n- total", "total", 2, "reads channel 'n' as list[int], but it holds str", "types are never converted"
    ),
    "a way without an end": Wrong(
        "- route:\n    by: parity\n    flows:\n      even: add",
        *("route", 1, "its router may name odd, which is no way", "add it, or a default", N),
    ),
    "a way that is never taken": Wrong(
        "- route:\n    by: parity\n    flows: {even: add, odd: add, zero: add}",
        *("route", 1, "its router never names 'zero'", "it names even, odd", N),
    ),
    "a default that is never taken": Wrong(
        "- route:\n    by: parity\n    flows: {even: add, odd: add, other: add}\n    default: other",
        *("route", 1, "its router never names 'other'", "leave the default out", N),
    ),
    "a default that is no way": Wrong(
        "- route:\n    by: free_route\n    flows: {simple: dense}\n    default: simpel",
        *("route", 1, "its default 'simpel' is none of its ways", "did you mean 'simple'"),
    ),
    "a router that routes nowhere": Wrong(
        "- route:\n    by: add\n    flows: {even: add}",
        *("route", 1, "its router does not write the channel 'route'", "take one that does", N),
    ),
    "a router that may not run": Wrong(
        "- route:\n    by: {try: {body: maybe_route, fallback: add}}\n    flows: {even: add}",
        *("route", 1, "the channel 'route' is not there on every way through its router", "write it on every way", N),
    ),
    "a router in branches": Wrong(
        "- route:\n    by: {parallel: [maybe_route, parity]}\n    flows: {even: add}",
        *("route", 1, "its router leaves one value a branch in the channel 'route'", "join the branches first", N),
    ),
    "a channel that only one way writes": Wrong(
        "- route:\n    by: free_route\n    flows: {a: count_words, b: shout}\n- read_own",
        *("read_own", 4, "reads channel 'topic', which 'count_words' writes, but not on every way", "| None = None"),
    ),
    "ways of different types": Wrong(
        "- route:\n    by: free_route\n    flows: {a: count_words, b: text_n}\n- add",
        *("add", 4, "reads channel 'n' as int, but it holds int | str, written by 'count_words or text_n'", "put an"),
    ),
    "several values on one way and one on another": Wrong(
        "- route:\n    by: free_route\n    flows: {a: dense, b: {parallel: [dense, bm25]}}",
        *(
            "route",
            1,
            "channel 'hits' holds several values on one way and one value on another",
            "join the branches on",
        ),
    ),
    "what only the fallback has": Wrong(
        "- try: {body: add, fallback: say}\n- read_error",
        *("read_error", 2, "reads channel 'error', which 'try' writes, but not on every way", "| None = None", N),
    ),
    "a loop without a verdict": Wrong(
        "- loop:\n    body: add\n    until: add",
        "loop",
        1,
        "its `until` must write one bool channel; it writes none",
        "that judges",
        N,
    ),
    "a loop with two verdicts": Wrong(
        "- loop:\n    body: add\n    until: [odd, at_least: {bound: 3}]",
        *(
            "loop",
            1,
            "its `until` must write one bool channel; it writes odd, enough",
            "take an operator that judges",
            N,
        ),
    ),
    "a check without a verdict": Wrong(
        "- verify: {body: add, check: say}", "verify", 1, "its `check` must write one bool channel", "that judges", N
    ),
    "a verdict that may be missing": Wrong(
        "- loop:\n    body: add\n    until: {try: {body: odd, fallback: add}}",
        *("loop", 1, "its `until` must write one bool channel; it writes none", "take an operator that judges", N),
    ),
    "a way out without a judge": Wrong(
        "- loop:\n    body: add\n    otherwise: add", "loop", 1, "and it has no judge", "give it `until`, or put", N
    ),
    "a first round that needs the one before": Wrong(
        "- loop:\n    body: [add, later]",
        *("later", 2, "reads channel 'late', which", "take it as optional: late: int | None = None", N),
    ),
    "rounds that leave branches unjoined": Wrong(
        "- count_words\n- loop:\n    body: {parallel: [add, add]}",
        *(
            "loop",
            2,
            "channel 'n' holds one value in its first round and one value a branch after it",
            "inside the body",
        ),
    ),
    "a first round that finds unjoined branches": Wrong(
        "- parallel: [dense, bm25]\n- loop:\n    body: [fuse]",
        *("loop", 2, "channel 'hits' holds one value a branch in its first round and one value after it", "before the"),
    ),
    "nothing to go over": Wrong(
        "- each:\n    body: size",
        "each",
        1,
        "there is no channel 'queries' to go over",
        "an operator before that writes it",
    ),
    "going over what is no list": Wrong(
        "- each: {over: query, body: size}", "each", 1, "channel 'query' holds Query, not a list", "go over a list"
    ),
    "an item without a name": Wrong(
        "- numbers\n- each: {over: numbers, body: add}",
        *("each", 2, "it is not clear which channel an item of 'numbers' (int) goes to", "name it: item="),
    ),
    "items that leave branches unjoined": Wrong(
        "- letters\n- each:\n    body: {parallel: [dense, bm25]}",
        *("each", 2, "its body leaves several values in channel 'hits'", "join them inside the body"),
    ),
    "a recursion without a beginning": Wrong(
        "- recurse: {body: add, derive: add}",
        *("recurse", 1, "there is no channel 'query' with one query to begin with", "make it an input", N),
    ),
    "a recursion that derives nothing": Wrong(
        "- recurse: {body: size, derive: size}",
        "recurse",
        1,
        "does not write the channel 'queries'",
        "take an operator",
    ),
    "a recursion that leaves branches unjoined": Wrong(
        "- recurse:\n    body: {parallel: [dense, bm25]}\n    derive: shorter",
        *("recurse", 1, "its body leaves several values in channel 'hits'", "join them inside the body"),
    ),
    "a nested pipeline without its input": Wrong(
        "- pipeline:\n    name: sums\n    inputs: {n: int}\n    flow: [add]",
        *("sums", 1, "reads channel 'n' (int), which nothing before it writes", "put one that writes it before"),
    ),
    "a nested pipeline with an input of another type": Wrong(
        "- text_n\n- pipeline:\n    name: sums\n    inputs: {n: int}\n    flow: [add]",
        *("sums", 2, "reads channel 'n' as int, but it holds str, written by 'text_n'", "types are never converted"),
    ),
    "an optional input of a nested pipeline of another type": Wrong(
        "- pipeline:\n    name: talk\n    inputs: {n: int}\n    flow: [say]",
        *(
            "talk",
            1,
            "reads channel 'topic' as str, but it holds int, an input",
            "types are never",
            "inputs: {n: int, topic: int}",
        ),
    ),
    "a mistake inside a nested pipeline": Wrong(
        "- dense\n- pipeline:\n    name: inner\n    flow:\n      - bm25\n      - generate",
        *("generate", 6, "reads channel 'context' (Context), which nothing before it writes", "build_context"),
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_it_is_refused_with_node_line_channel_and_a_way_out(name: str):
    wrong = GRAPHS[name]
    head = wrong.inputs or "name: wrong"
    with pytest.raises(FlowError) as caught:
        Pipeline.from_yaml(f"{head}\nflow:\n  " + wrong.flow.replace("\n", "\n  ") + "\n")
    assert f"node {wrong.node!r} (line {wrong.line + 2}): " in caught.value.message
    assert wrong.says in caught.value.message
    assert wrong.fix in str(caught.value.hint)
