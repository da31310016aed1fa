"""Batches of hybrid queries give what one query after the other gives."""

import numpy as np
import pytest

from rag.errors import InputError
from rag.index import GraphIndex, IdFilter, ScanIndex, search_hybrid

RNG = np.random.default_rng(9)
VECTORS = RNG.standard_normal((3000, 16)).astype(np.float32)
QUERIES = RNG.standard_normal((40, 16)).astype(np.float32)
SHARED = IdFilter(np.flatnonzero(np.arange(3000) % 7 == 0))
NONE = np.empty(0, np.int64)


@pytest.fixture(scope="module", params=["scan", "scan lvq4x4", "graph"])
def index(request):
    kind, _, codec = request.param.partition(" ")
    made = GraphIndex(16, "l2", "float16") if kind == "graph" else ScanIndex(16, "l2", codec or "float32")
    made.add(np.arange(3000), VECTORS)
    return made


def some(place: int) -> IdFilter | np.ndarray | None:
    return [SHARED, None, np.arange(place * 10, place * 10 + 500), NONE, np.arange(100, 103)][place % 5]


def test_each_query_finds_what_its_own_filter_lets_pass(index):
    filters = [some(place) for place in range(40)]
    found = search_hybrid(index, QUERIES, 10, filters)
    for place, filter in enumerate(filters):
        alone = index.search(QUERIES[place : place + 1], 10, filter=filter)
        assert np.array_equal(found.ids[place], alone.ids[0])
        assert np.allclose(found.scores[place], alone.scores[0], rtol=1e-5)


def test_equal_ids_and_the_same_filter_are_answered_together(index):
    class Counted:
        dim, calls = index.dim, 0

        def search(self, *args, **how):
            self.calls += 1
            return index.search(*args, **how)

    counted = Counted()
    search_hybrid(counted, QUERIES[:6], 3, [SHARED, None, np.arange(9), SHARED, np.arange(9), None])  # type: ignore[arg-type]
    assert counted.calls == 3


def test_ids_of_other_types_are_not_taken_for_equal(index):
    """The bytes of 5 as int64 are those of 5 and 0 as int32, which is not sorted."""
    alone = np.array([5])
    with pytest.raises(InputError, match="not sorted"):
        search_hybrid(index, QUERIES[:2], 1, [alone, np.array([5, 0], np.int32)])
    assert search_hybrid(index, QUERIES[:2], 1, [alone, alone.astype(np.int32)]).ids.tolist() == [[5], [5]]


def test_no_queries_find_nothing(index):
    assert search_hybrid(index, np.empty((0, 16), np.float32), 4, []).ids.shape == (0, 4)


@pytest.mark.parametrize(
    ("filters", "message"),
    [([None], "1 filters for 40 queries"), ([np.array([3, 1])] * 40, "not sorted")],
)
def test_filters_that_do_not_fit_are_refused(index, filters, message):
    with pytest.raises(InputError, match=message):
        search_hybrid(index, QUERIES, 3, filters)
