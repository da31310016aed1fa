"""What is left of a graph and its vectors once deleted rows are taken out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag import _native

__all__ = ["copy_live"]

_NO_ROW = 2**32 - 1


def copy_live(
    store: _native.VectorStore,
    graph: _native.Graph,
    live: NDArray[np.bool_],
    new_store: _native.VectorStore,
    new_graph: _native.Graph,
) -> None:
    """Copy the rows that live (bool[rows]) and the links between them into an empty store and its empty graph."""
    place = np.where(live, np.cumsum(live) - 1, _NO_ROW).astype(np.uint32)
    parts = store.parts()
    del parts["tombstones"]
    count = int(live.sum())
    sections = {name: _kept(pieces, live) for name, pieces in parts.items()}
    sections["tombstones"] = np.zeros(-(-count // 64) * 8, np.uint8)
    new_store.attach(count, sections)
    (_, links), *upper = graph.levels()
    levels = [(np.empty(0, np.uint32), _renumbered(links, live))]
    for rows, its_links in upper:
        stay = live[rows]
        if not stay.any():  # nor is any row above
            break
        levels.append((place[rows[stay]], _renumbered(its_links, stay)))
    new_graph.attach(levels, int(live[: graph.linked].sum()), graph.longest)


def _kept(pieces: list[NDArray[np.uint8]], live: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The bytes of the rows that live, out of those of all rows, which lie in these pieces."""
    width = sum(map(len, pieces)) // len(live)
    first, kept = 0, []
    for piece in pieces:
        rows = piece.reshape(-1, width)
        kept.append(rows[live[first : first + len(rows)]].reshape(-1))
        first += len(rows)
    return np.concatenate(kept)


def _renumbered(links: NDArray[np.uint32], stay: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Links of the places that stay, to the places that these have then; none leads to another."""
    place = np.append(np.cumsum(stay) - 1, -1).astype(np.uint32)
    kept = links[stay]
    return place[np.minimum(kept, len(stay))]
