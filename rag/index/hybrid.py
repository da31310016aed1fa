"""Batches of hybrid queries: nearest vectors, each query under a predicate of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError
from rag.index.filter import IdFilter
from rag.index.inputs import as_ids, as_vectors, check_k
from rag.index.protocol import Matches, VectorIndex

__all__ = ["search_hybrid"]


def search_hybrid(
    index: VectorIndex,
    queries: NDArray[np.float32],
    k: int,
    filters: Sequence[IdFilter | NDArray[np.int64] | None],
    **how: Any,
) -> Matches:
    """The k nearest for each query float32[q, dim] among what its own filter lets pass: `filters` has one a query.

    Queries that share a filter are answered together, so that it is prepared once and every vector that passes is read
    once for all of them (HQI: Mohoney et al., SIGMOD 2023, section 5). The same `IdFilter`, or equal ids, make a shared
    filter; None lets all pass. `how` goes to `index.search` as it is: recall, threads. Raises InputError when there are
    more or fewer filters than queries, and what `index.search` does.
    """
    matrix, wanted = as_vectors(queries, index.dim, "queries"), check_k(k)
    if len(filters) != len(matrix):
        raise InputError(f"{len(filters)} filters for {len(matrix)} queries", hint="give None where all pass")
    found = Matches(np.full((len(matrix), wanted), -1, np.int64), np.full((len(matrix), wanted), -np.inf, np.float32))
    for filter, places in _grouped(filters):
        some = index.search(matrix[places], wanted, filter=filter, **how)
        found.ids[places], found.scores[places] = some.ids, some.scores
    return found


def _grouped(
    filters: Sequence[IdFilter | NDArray[np.int64] | None],
) -> list[tuple[IdFilter | None, NDArray[np.int64]]]:
    """Each distinct filter, and the places int64[m], ascending, at which it stands."""
    places: dict[Any, list[int]] = {}
    distinct: dict[Any, IdFilter | None] = {}
    for place, filter in enumerate(filters):
        if filter is None or isinstance(filter, IdFilter):
            key: Any = filter
            distinct[key] = filter
        else:
            ids = as_ids(filter, "filter ids")
            key = ids.tobytes()
            if key not in distinct:
                distinct[key] = IdFilter(ids)
        places.setdefault(key, []).append(place)
    return [(distinct[key], np.array(at)) for key, at in places.items()]
