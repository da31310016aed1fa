"""What is near some nodes of a graph: personalised PageRank, and neighbourhoods within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag._native import CsrGraph
from rag.errors import InputError

__all__ = ["Neighbourhood", "Ranked", "neighbourhood", "pagerank", "rank"]

Seeds = Mapping[int, float]
"""Nodes that a walk goes back to, and their weights."""

_TOLERANCE = 1e-6
_ITERATIONS = 200
_PUSHES_PAY = 1.0
"""Edges that a push may follow, as a share of the graph's: beyond, power iteration is sooner done."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """The best nodes of each query: `nodes` int64[q, k] and `scores` float32[q, k], -1 and 0 behind the last."""

    nodes: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Nodes in the order they were reached, int32[n], how many steps from a seed, and from which node (-1: a seed)."""

    nodes: NDArray[np.int32]
    steps: NDArray[np.int32]
    parents: NDArray[np.int32]


def rank(
    graph: CsrGraph,
    queries: Sequence[Seeds],
    k: int,
    *,
    alpha: float = 0.5,
    among: NDArray[np.bool_] | None = None,
    precision: float = 1e-6,
    threads: int = 0,
) -> Ranked:
    """The k nodes that a walk from the seeds, which goes back to them with probability 1 - `alpha`, is most often at.

    `alpha` is the probability to follow an edge (0.5 in HippoRAG, arXiv:2405.14831; 0.85 in PageRank). Of `among`
    bool[nodes] only nodes that are True are ranked. Near seeds are searched by local push (Andersen, Chung, Lang 2006)
    until no node has more than `precision` for each of its edges left to pass on, and the best 2 k are then told apart
    exactly; where that spreads over the whole graph, power iteration takes over. Results depend on the query alone.

    Raises InputError for seeds that are no nodes, and weights that are negative or not finite.
    """
    if k < 1:
        raise InputError(f"k is {k}, expected 1 or more")
    offsets, nodes, weights = _seeds(queries)
    mask = None if among is None else np.ascontiguousarray(among, np.uint8)
    budget = _budget(graph)
    found, scores, _ = graph.pagerank_top(
        offsets, nodes, weights, k, alpha, precision, _TOLERANCE, _ITERATIONS, budget, mask, threads
    )
    return Ranked(found, scores)


def pagerank(
    graph: CsrGraph, queries: Sequence[Seeds], *, alpha: float = 0.5, tolerance: float = _TOLERANCE, threads: int = 0
) -> NDArray[np.float32]:
    """Personalised PageRank of all nodes, float32[q, nodes], each row of sum 1 (0 without seeds), by power iteration
    until a step moves less than `tolerance` in all."""
    scores, _ = graph.pagerank_all(*_seeds(queries), alpha, 1.0, tolerance, 10 * _ITERATIONS, 0, threads)
    return scores


def neighbourhood(
    graph: CsrGraph, seeds: Sequence[int], *, hops: int = 2, budget: int = 1000, fanout: int = 100
) -> Neighbourhood:
    """What can be reached from seeds, breadth first: `budget` nodes at most, and of each node's edges the `fanout`
    heaviest, so that a hub does not fill it alone; 0 follows all."""
    if hops < 0 or budget < 0 or fanout < 0:
        raise InputError(f"hops {hops}, budget {budget}, fanout {fanout}: none may be negative")
    return Neighbourhood(*graph.ball(np.asarray(seeds, np.int64), hops, budget, fanout))


def _budget(graph: CsrGraph) -> int:
    return max(int(_PUSHES_PAY * graph.edges), 1)


def _seeds(queries: Sequence[Seeds]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    offsets = np.cumsum([0, *(len(seeds) for seeds in queries)]).astype(np.int64)
    nodes = np.fromiter((node for seeds in queries for node in seeds), np.int64, int(offsets[-1]))
    weights = np.fromiter((weight for seeds in queries for weight in seeds.values()), np.float32, int(offsets[-1]))
    return offsets, nodes, weights
