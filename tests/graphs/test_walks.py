"""Ranking by walks and neighbourhoods, as users call them."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from rag.errors import InputError
from rag.graphs import from_networkx, neighbourhood, pagerank, rank


def test_ranks_are_those_of_networkx():
    peer = nx.karate_club_graph()
    graph = from_networkx(peer).csr()
    for alpha in (0.5, 0.85):
        expected = nx.pagerank(peer, alpha, personalization={0: 1, 33: 2}, tol=1e-12, max_iter=1000)
        scores = pagerank(graph, [{0: 1, 33: 2}], alpha=alpha)
        np.testing.assert_allclose(scores[0], list(expected.values()), atol=1e-6)
        best = rank(graph, [{0: 1, 33: 2}], 5, alpha=alpha)
        assert best.nodes[0].tolist() == sorted(expected, key=lambda node: -expected[node])[:5]
        np.testing.assert_allclose(best.scores[0], sorted(expected.values())[:-6:-1], atol=2e-5)


def test_only_some_nodes_are_ranked_and_missing_ones_are_marked():
    graph = from_networkx(nx.path_graph(6)).csr()
    among = np.array([False, True, False, True, False, False])
    found = rank(graph, [{0: 1.0}, {}], 3, among=among)
    assert found.nodes.tolist() == [[1, 3, -1], [-1, -1, -1]]
    assert found.scores[0, 0] > found.scores[0, 1] > 0
    assert rank(graph, [], 3).nodes.shape == (0, 3)
    with pytest.raises(InputError, match="k is 0"):
        rank(graph, [{0: 1.0}], 0)
    with pytest.raises(InputError, match="seed 9"):
        rank(graph, [{9: 1.0}], 1)


def test_a_neighbourhood_keeps_its_budget():
    graph = from_networkx(nx.star_graph(50)).csr()
    found = neighbourhood(graph, [3], hops=2, fanout=0)
    assert found.nodes[:2].tolist() == [3, 0]
    assert len(found.nodes) == 51
    assert found.parents[1] == 3
    assert len(neighbourhood(graph, [3], hops=2, budget=5).nodes) == 5
    assert len(neighbourhood(graph, [3], hops=2, fanout=10).nodes) <= 12
    with pytest.raises(InputError):
        neighbourhood(graph, [3], hops=-1)
