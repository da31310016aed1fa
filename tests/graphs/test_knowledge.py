"""Statements that come and go, and the edges and arrays they add up to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import InputError, NotFoundError
from rag.graphs import KnowledgeGraph, Statements


def people() -> KnowledgeGraph:
    graph = KnowledgeGraph()
    ada, charles, engine = (graph.node("entity", name) for name in ("ada", "charles", "engine"))
    graph.add([ada, charles], "worked on", engine, source=1, spans=[(0, 3), (8, 15)])
    graph.add(ada, "worked on", engine, 2.0, source=2)
    graph.add(ada, "knew", charles, source=2)
    return graph


def content(graph: KnowledgeGraph) -> Any:
    """All that can be seen of it, whatever numbers nodes have."""
    edges = graph.edges()
    columns = (part.tolist() for part in (edges.subjects, edges.relations, edges.objects, edges.weights, edges.counts))
    return (
        sorted(graph.at(number)[:2] for number in graph.nodes().tolist()),
        sorted(
            (graph.at(s)[:2], graph.relations[r], graph.at(o)[:2], w, c) for s, r, o, w, c in zip(*columns, strict=True)
        ),
    )


def test_statements_that_say_the_same_add_up_to_an_edge():
    graph = people()
    assert content(graph)[1] == [
        (("entity", "ada"), "knew", ("entity", "charles"), 1.0, 1),
        (("entity", "ada"), "worked on", ("entity", "engine"), 3.0, 2),
        (("entity", "charles"), "worked on", ("entity", "engine"), 1.0, 1),
    ]
    assert graph.statements([1]).spans.tolist() == [[0, 3], [8, 15]]
    assert len(graph.edges({"knew"})) == 1
    assert graph.kinds == {"entity": 3}


def test_a_withdrawn_source_leaves_what_was_there_before():
    graph = people()
    before = content(graph)
    lovelace = graph.node("entity", "lovelace")
    graph.add(lovelace, "same as", 0, source=3)
    graph.add(lovelace, "same as", 0, source=3)
    assert 3 in graph
    assert graph.find("entity", "lovelace") == lovelace
    assert graph.withdraw([3]) == 2
    assert content(graph) == before
    assert 3 not in graph
    assert graph.find("entity", "lovelace") is None
    assert graph.withdraw([3, 99]) == 0
    assert graph.withdraw([1, 2]) == 4
    assert len(graph) == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.sampled_from("ab"), st.integers(0, 4)), max_size=40))
def test_what_is_left_is_as_if_the_rest_had_never_been(said: list[tuple[int, int, str, int]]):
    """Sources 0 to 2 are withdrawn, some of them in the middle and stated again."""
    graph, expected = KnowledgeGraph(), KnowledgeGraph()
    for at, (source, subject, relation, target) in enumerate(said):
        for made in (graph, expected) if source > 2 else (graph,):
            ends = [made.node("entity", f"e{number}") for number in (subject, target)]
            made.add(ends[0], relation, ends[1], 0.5, source)
        if at % 7 == 6:
            graph.withdraw([0, 1])
    graph.withdraw([0, 1, 2])
    assert content(graph) == content(expected)
    assert sorted(set(graph.statements().sources.tolist())) == sorted({s for s, *_ in said if s > 2})


def test_arrays_have_the_edges_of_the_chosen_relations_both_ways_or_as_stated():
    graph = people()
    table = np.zeros((3, 3))
    table[[0, 1], [2, 2]] = 3, 1
    for both_ways, expected in ((False, table), (True, table + table.T)):
        own = graph.csr({"worked on"}, both_ways=both_ways)
        assert own.symmetric == both_ways
        means = own.mean_of_neighbours(np.eye(3, dtype=np.float32))
        np.testing.assert_allclose(means, expected / np.maximum(expected.sum(1, keepdims=True), 1))
    assert graph.csr() is graph.csr()
    known = graph.csr()
    graph.add(1, "knew", 0, source=5)
    assert graph.csr() is not known
    with pytest.raises(NotFoundError, match="'knows'"):
        graph.csr({"knows"})


def test_nodes_have_attributes_and_may_stay_without_statements():
    graph = KnowledgeGraph()
    number = graph.node("table", "sales", rows=3)
    assert graph.node("table", "sales", unit="€") == number
    assert graph.at(number).attributes == {"rows": 3, "unit": "€"}
    assert len(graph) == 0
    graph.keep(number)
    assert graph.nodes("table").tolist() == [number]
    assert graph.nodes("entity").tolist() == []
    assert graph.csr().nodes == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.node("", "x"), "kind ''"),
        (lambda g: g.node("entity", ""), "name ''"),
        (lambda g: g.add(0, "", 1), "without a name"),
        (lambda g: g.add(0, "knew", 99), "node 99"),
        (lambda g: g.add(-1, "knew", 0), "node -1"),
        (lambda g: g.add(0, "knew", 1, -1.0), "-1.0"),
        (lambda g: g.add(0, "knew", 1, float("nan")), "nan"),
        (lambda g: g.add([0, 1], "knew", [1, 2], [1.0, 2.0, 3.0]), "do not fit"),
        (lambda g: g.extend(Statements.of(0, 77, 1)), "relation 77"),
    ],
)
def test_wrong_statements_are_refused_and_change_nothing(call: Any, message: str):
    graph = people()
    before = content(graph)
    with pytest.raises(InputError, match=message):
        call(graph)
    assert content(graph) == before
    with pytest.raises(NotFoundError):
        graph.at(99)
