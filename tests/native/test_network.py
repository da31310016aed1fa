"""Kernels on weighted directed graphs, against networkx and plain NumPy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag._native import CsrGraph, rows_of_edges
from rag.errors import InputError

FORM: dict[str, Any] = {"alpha": 0.5, "epsilon": 1e-7, "tolerance": 1e-7, "iterations": 300, "budget": 10**9}


def random_edges(seed: int, nodes: int, edges: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    sources, targets = rng.integers(0, nodes, (2, edges))
    return sources, targets, rng.uniform(0.1, 3, edges).astype(np.float32)


def random_graph(seed: int, nodes: int = 60, edges: int = 150, *, both_ways: bool = False) -> CsrGraph:
    return CsrGraph(*rows_of_edges(nodes, *random_edges(seed, nodes, edges), both_ways))


def in_networkx(graph: CsrGraph, rows: tuple[NDArray[Any], ...]) -> nx.DiGraph:
    offsets, targets, weights = rows
    made = nx.DiGraph()
    made.add_nodes_from(range(graph.nodes))
    sources = np.repeat(np.arange(graph.nodes), np.diff(offsets))
    made.add_weighted_edges_from(zip(sources.tolist(), targets.tolist(), weights.tolist(), strict=True))
    return made


def seeds(*queries: dict[int, float]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    offsets = np.cumsum([0, *(len(query) for query in queries)]).astype(np.int64)
    nodes = np.array([node for query in queries for node in query], np.int64)
    return offsets, nodes, np.array([weight for query in queries for weight in query.values()], np.float32)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(0, 40), st.booleans())
def test_rows_are_the_sums_of_edges_in_order(seed: int, nodes: int, edges: int, both_ways: bool):
    sources, targets, weights = random_edges(seed, nodes, edges)
    table = np.zeros((nodes, nodes))
    np.add.at(table, (sources, targets), weights)
    if both_ways:
        away = sources != targets
        np.add.at(table, (targets[away], sources[away]), weights[away])
    offsets, found, own = rows_of_edges(nodes, sources, targets, weights, both_ways)
    assert [found[a:b].tolist() for a, b in pairwise(offsets)] == [np.flatnonzero(row).tolist() for row in table]
    np.testing.assert_allclose(own, table[table > 0], rtol=1e-5)
    assert CsrGraph(offsets, found, own).symmetric == np.allclose(table, table.T)


@pytest.mark.parametrize("alpha", [0.5, 0.85])
@pytest.mark.parametrize("budget", [0, 10**9])
@pytest.mark.parametrize("both_ways", [False, True])
def test_pagerank_is_that_of_networkx_with_dead_ends_and_loops(alpha: float, budget: int, both_ways: bool):
    rows = rows_of_edges(60, *random_edges(1, 60, 90), both_ways)
    graph = CsrGraph(*rows)
    assert both_ways or (np.diff(rows[0]) == 0).any(), "some lead nowhere"
    personal = {3: 2.0, 17: 1.0, 40: 0.5}
    found, work = graph.pagerank_all(*seeds(personal), **FORM | {"alpha": alpha, "budget": budget, "epsilon": 1e-9})
    expected = nx.pagerank(in_networkx(graph, rows), alpha, personalization=personal, tol=1e-12, max_iter=1000)
    np.testing.assert_allclose(found[0], [expected[node] for node in range(60)], atol=2e-6)
    assert (work[0] > 0).tolist() == [budget > 0, budget == 0]


def test_a_push_over_its_budget_goes_on_by_power_iteration():
    graph = random_graph(2, 2000, 8000, both_ways=True)
    query = seeds({5: 1.0}, {7: 1.0})
    power, _ = graph.pagerank_all(*query, **FORM | {"budget": 0})
    found, work = graph.pagerank_all(*query, **FORM | {"budget": 50})
    np.testing.assert_array_equal(found, power)
    assert (work > 0).all()


@pytest.mark.parametrize("budget", [0, 10**9])
def test_queries_of_a_batch_and_threads_change_nothing(budget: int):
    graph = random_graph(3, 5000, 20_000, both_ways=True)
    rng = np.random.default_rng(0)
    queries = [dict.fromkeys(rng.integers(0, 5000, 3).tolist(), 1.0) for _ in range(21)]
    form = FORM | {"budget": budget, "epsilon": 1e-6}
    together, _ = graph.pagerank_all(*seeds(*queries), **form, threads=2)
    for query, found in zip(queries, together, strict=True):
        np.testing.assert_array_equal(graph.pagerank_all(*seeds(query), **form, threads=1)[0][0], found)


def test_the_best_nodes_are_those_of_the_exact_scores_even_after_a_coarse_push():
    graph = random_graph(4, 20_000, 200_000, both_ways=True)
    rng = np.random.default_rng(1)
    query = seeds(*(dict.fromkeys(rng.integers(0, 20_000, 5).tolist(), 1.0) for _ in range(40)))
    exact, _ = graph.pagerank_all(*query, **FORM | {"budget": 0})
    found, scores, work = graph.pagerank_top(*query, 20, **FORM | {"epsilon": 1e-6})
    assert (work[:, 1] == 0).all()
    best = np.argsort(-exact, axis=1, kind="stable")[:, :20]
    assert np.mean([set(a) == set(b) for a, b in zip(found, best, strict=True)]) >= 0.95
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("budget", [0, 10**9])
def test_only_the_nodes_that_are_asked_for_are_ranked(budget: int):
    graph = random_graph(5, both_ways=True)
    among = (np.arange(60) % 3 == 0).astype(np.uint8)
    query = seeds({1: 1.0})
    everything, _ = graph.pagerank_all(*query, **FORM | {"budget": budget})
    found, scores, _ = graph.pagerank_top(*query, 60, **FORM | {"budget": budget}, among=among)
    kept = found[0][found[0] >= 0]
    assert set(kept) == set(np.flatnonzero(among & (everything[0] > 0)))
    np.testing.assert_allclose(scores[0][: len(kept)], everything[0][kept], atol=1e-6)
    assert (scores[0][len(kept) :] == 0).all()


def test_what_has_no_seeds_has_no_scores():
    graph = random_graph(6)
    found, scores, _ = graph.pagerank_top(*seeds({}, {3: 0.0}, {3: 1.0}), 4, **FORM)
    assert (found[:2] == -1).all()
    assert (scores[:2] == 0).all()
    assert found[2, 0] == 3
    alone = CsrGraph(np.zeros(3, np.int64), np.zeros(0, np.int32))
    assert alone.pagerank_all(*seeds({1: 7.0}), **FORM)[0].tolist() == [[0, 1]]
    assert CsrGraph(np.zeros(1, np.int64), np.zeros(0, np.int32)).pagerank_all(*seeds({}), **FORM)[0].shape == (1, 0)


def test_a_ball_grows_by_steps_up_to_its_budget():
    rows = rows_of_edges(60, *random_edges(7, 60, 90))
    graph, peer = CsrGraph(*rows), in_networkx(CsrGraph(*rows), rows)
    for hops in range(4):
        nodes, steps, parents = graph.ball(np.array([3, 8]), hops, 10**6)
        far = [nx.single_source_shortest_path_length(peer, seed, hops) for seed in (3, 8)]
        expected = {node: min(one.get(node, 99) for one in far) for node in {*far[0], *far[1]}}
        assert dict(zip(nodes.tolist(), steps.tolist(), strict=True)) == expected
        for node, step, parent in zip(nodes, steps, parents, strict=True):
            assert (parent == -1) == (step == 0)
            assert step == 0 or (peer.has_edge(parent, node) and expected[parent] == step - 1)
    whole = graph.ball(np.array([3, 8]), 9, 10**6)[0]
    assert graph.ball(np.array([3, 8]), 9, 7)[0].tolist() == whole[:7].tolist()


def test_a_ball_follows_the_heaviest_edges_of_a_hub():
    weights = np.random.default_rng(0).permutation(1000).astype(np.float32)
    graph = CsrGraph(*rows_of_edges(1001, np.zeros(1000, np.int64), np.arange(1, 1001), weights))
    nodes, _, _ = graph.ball(np.array([0]), 2, 10**6, 10)
    assert nodes.tolist() == [0, *sorted((np.argsort(-weights)[:10] + 1).tolist())]


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(0, 40))
def test_components_and_distances_are_those_of_networkx(seed: int, nodes: int, edges: int):
    rows = rows_of_edges(nodes, *random_edges(seed, nodes, edges))
    graph = CsrGraph(*rows)
    peer = in_networkx(graph, rows)
    numbers = graph.components()
    together = sorted(sorted(np.flatnonzero(numbers == number).tolist()) for number in set(numbers.tolist()))
    assert together == sorted(sorted(part) for part in nx.weakly_connected_components(peer))
    assert [int(np.flatnonzero(numbers == i)[0]) for i in range(len(together))] == [part[0] for part in together]
    far = dict(nx.all_pairs_shortest_path_length(peer))
    expected = [[far[a].get(b, -1) for b in range(nodes)] for a in range(nodes)]
    assert graph.distances(np.arange(nodes), 2).tolist() == expected


def planted(seed: int, blocks: int = 20, size: int = 30) -> tuple[tuple[NDArray[Any], ...], NDArray[np.int64]]:
    """Twelve edges a node within its block and two anywhere."""
    rng = np.random.default_rng(seed)
    nodes = blocks * size
    own = np.arange(nodes).repeat(6)
    near = own // size * size + rng.integers(0, size, len(own))
    away = rng.integers(0, nodes, (2, nodes))
    sources, targets = np.concatenate([[own, near], away], axis=1)
    return rows_of_edges(nodes, sources, targets, None, True), np.arange(nodes) // size


@pytest.mark.parametrize("refine", [True, False])
def test_communities_find_planted_blocks_and_tell_their_modularity(refine: bool):
    rows, blocks = planted(0)
    graph = CsrGraph(*rows)
    of, quality = graph.communities(refine=refine, seed=1)
    assert len(set(zip(of.tolist(), blocks.tolist(), strict=True))) == len(set(of.tolist())) == 20
    peer = in_networkx(graph, rows)
    sums = np.array([weight for _, _, weight in peer.edges(data="weight")])
    inside = np.array([of[a] == of[b] for a, b in peer.edges])
    strengths = np.bincount(of, weights=np.add.reduceat(rows[2], rows[0][:-1]))
    expected = sums[inside].sum() / sums.sum() - ((strengths / sums.sum()) ** 2).sum()
    assert quality == pytest.approx(expected, abs=1e-6)
    again, _ = graph.communities(refine=refine, seed=1)
    np.testing.assert_array_equal(of, again)


def test_communities_are_as_good_as_those_of_networkx_and_hold_together():
    peer = nx.karate_club_graph()
    edges = np.array(peer.edges, np.int64)
    weights = np.array([peer.edges[edge]["weight"] for edge in peer.edges], np.float32)
    graph = CsrGraph(*rows_of_edges(34, edges[:, 0].copy(), edges[:, 1].copy(), weights, True))
    best = max(graph.communities(rounds=5, seed=seed)[1] for seed in range(5))
    others = (nx.community.louvain_communities(peer, seed=seed) for seed in range(5))
    assert best >= max(nx.community.modularity(peer, other) for other in others) - 1e-6
    for seed in range(20):
        of, _ = random_graph(seed, 200, 500, both_ways=True).communities(seed=seed)
        rows = rows_of_edges(200, *random_edges(seed, 200, 500), True)
        whole = in_networkx(CsrGraph(*rows), rows).to_undirected()
        for number in set(of.tolist()):
            assert nx.is_connected(whole.subgraph(np.flatnonzero(of == number).tolist()))


def test_a_higher_resolution_gives_more_communities_and_no_edges_none_but_single_nodes():
    graph = CsrGraph(*planted(1)[0])
    assert graph.communities(30.0)[0].max() > graph.communities(1.0)[0].max() > graph.communities(0.05)[0].max()
    alone = CsrGraph(np.zeros(5, np.int64), np.zeros(0, np.int32))
    assert alone.communities()[0].tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match="both directions"):
        random_graph(0).communities()


def test_the_mean_of_neighbours_is_by_weight():
    offsets, targets, weights = rows_of_edges(60, *random_edges(8, 60, 90))
    table = np.zeros((60, 60))
    table[np.repeat(np.arange(60), np.diff(offsets)), targets] = weights
    rows = np.random.default_rng(0).standard_normal((60, 7)).astype(np.float32)
    expected = table @ rows / np.maximum(table.sum(axis=1, keepdims=True), 1e-30)
    np.testing.assert_allclose(CsrGraph(offsets, targets, weights).mean_of_neighbours(rows, 2), expected, atol=1e-5)


def test_wrong_arrays_are_refused():
    none = np.zeros(0, np.int32)
    two = np.array([0, 1], np.int32)
    for offsets, targets, weights in (
        (np.zeros(0, np.int64), none, None),
        (np.array([0, 1]), none, None),
        (np.array([1, 2]), two, None),
        (np.array([0, 2, 1, 2]), two, None),
        (np.array([0, 2]), two, None),
        (np.array([0, 1, 2]), two, np.ones(1, np.float32)),
        (np.array([0, 1, 2]), two, np.array([1, -1], np.float32)),
        (np.array([0, 1, 2]), two, np.array([1, np.nan], np.float32)),
        (np.array([0, 1, 2]), two, np.array([np.inf, 1], np.float32)),
    ):
        with pytest.raises(InputError):
            CsrGraph(offsets, targets, weights)
    for edges in (([0], [5], None), ([-1], [0], None), ([0], [0, 1], None), ([0], [1], np.array([-1], np.float32))):
        with pytest.raises(InputError):
            rows_of_edges(2, np.array(edges[0]), np.array(edges[1]), edges[2])
    graph = random_graph(0)
    for bad in ({99: 1.0}, {-1: 1.0}, {0: -1.0}, {0: float("nan")}):
        with pytest.raises(InputError):
            graph.pagerank_all(*seeds(bad), **FORM)
    for wrong in ({"alpha": 1.0}, {"alpha": -0.1}, {"epsilon": 0.0}, {"tolerance": 0.0}, {"iterations": 0}):
        with pytest.raises(InputError):
            graph.pagerank_all(*seeds({0: 1.0}), **FORM | wrong)
    with pytest.raises(InputError):
        graph.pagerank_top(*seeds({0: 1.0}), 3, **FORM, among=np.ones(3, np.uint8))
    for call in (lambda: graph.ball(np.array([60]), 1, 9), lambda: graph.distances(np.array([-1]))):
        with pytest.raises(InputError):
            call()
    with pytest.raises(InputError):
        graph.mean_of_neighbours(np.zeros((3, 2), np.float32))
