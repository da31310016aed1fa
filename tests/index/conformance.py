"""What every `VectorIndex` must do, whichever engine stands behind it.

A test module subclasses `VectorIndexConformance`, says how to make an index, and pytest runs all of this against it.
The reference is a brute-force search in float64.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.errors import InputError
from rag.index import Matches, Metric, VectorIndex, merge_matches

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

seeds = st.integers(0, 2**32 - 1)
dims = st.sampled_from([1, 2, 3, 7, 16, 33, 64, 127])
# The same test runs in every subclass; which examples fail does not depend on the order of these.
examples = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.differing_executors])


def reference_scores(metric: Metric, queries: Floats, vectors: Floats) -> NDArray[np.float64]:
    """float64[q, n] by the definition of the metric."""
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        return np.asarray(-np.square(q[:, None] - x[None]).sum(2), dtype=np.float64)
    if metric == "cosine":
        q, x = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (q, x))
    return np.asarray(q @ x.T, dtype=np.float64)


def random_vectors(rng: np.random.Generator, n: int, dim: int) -> Floats:
    return rng.normal(size=(n, dim)).astype(np.float32)


class VectorIndexConformance:
    """Subclass as Test..., set `metric`, and define `make`."""

    metric: ClassVar[Metric]
    precision: ClassVar[float] = 3e-6
    """How far a score may be off, relative to the lengths of query and vector."""
    least_recall: ClassVar[float] = 1.0
    exact: ClassVar[bool] = True
    """Whether equal questions get equal answers, to the bit. Where not, the share that does is `least_recall`."""

    def make(self, dim: int) -> VectorIndex:
        raise NotImplementedError

    def reopen(self, index: VectorIndex, path: Path) -> VectorIndex | None:
        """The index as another process would find it; None for engines that keep nothing."""
        return None

    # --- how results are judged

    def tolerance(self, queries: Floats, vectors: Floats) -> float:
        if self.metric == "cosine" or not vectors.size:
            return self.precision
        q, x = (float(np.square(a.astype(np.float64)).sum(1).max()) for a in (queries, vectors))
        return self.precision * (q + x if self.metric == "l2" else np.sqrt(q * x))

    def check(self, found: Matches, queries: Floats, k: int, ids: Ids, vectors: Floats) -> None:
        """`found` is the answer of a search among exactly these vectors."""
        n = min(k, len(ids))
        assert found.ids.shape == found.scores.shape == (len(queries), k)
        assert found.ids.dtype == np.int64
        assert found.scores.dtype == np.float32
        assert (found.ids[:, n:] == -1).all()
        assert np.isneginf(found.scores[:, n:]).all()
        if n == 0:
            return
        tolerance = self.tolerance(queries, vectors)
        reference = reference_scores(self.metric, queries, vectors)
        row_of = {int(i): row for row, i in enumerate(ids)}
        rows = np.array([[row_of[int(i)] for i in line[:n]] for line in found.ids])
        scores = found.scores[:, :n].astype(np.float64)
        assert all(len(set(line)) == n for line in rows.tolist()), "an id was found twice"
        assert np.abs(np.take_along_axis(reference, rows, 1) - scores).max() <= tolerance, "a score is not its vector's"
        falls = (scores[:, :-1] > scores[:, 1:]) | (
            (scores[:, :-1] == scores[:, 1:]) & (found.ids[:, : n - 1] < found.ids[:, 1:n])
        )
        assert falls.all(), "results are not ordered by score, then id"
        worst = -np.sort(-reference, axis=1)[:, n - 1 : n]
        missed = np.count_nonzero(scores < worst - 2 * tolerance)
        # Of an approximate engine, few results may hold one miss, whatever share of them that is.
        assert missed <= math.ceil((1 - self.least_recall) * scores.size), "a better vector was missed"

    def agree(self, one: Matches, other: Matches) -> bool:
        """Whether two answers to the same question are the same, as far as this engine promises that."""
        if self.exact:
            return bool((one.ids == other.ids).all() and (one.scores == other.scores).all())
        return bool(np.mean(one.ids == other.ids) >= self.least_recall)

    def filled(self, rng: np.random.Generator, n: int, dim: int) -> tuple[VectorIndex, Ids, Floats]:
        index = self.make(dim)
        ids, vectors = rng.choice(10 * n + 1, n, replace=False).astype(np.int64), random_vectors(rng, n, dim)
        index.add(ids, vectors)
        return index, ids, vectors

    # --- searching

    @examples
    @given(seed=seeds, n=st.integers(0, 300), dim=dims, q=st.integers(1, 40), k=st.integers(1, 20))
    def test_finds_what_brute_force_finds(self, seed: int, n: int, dim: int, q: int, k: int) -> None:
        rng = np.random.default_rng(seed)
        index, ids, vectors = self.filled(rng, n, dim)
        queries = random_vectors(rng, q, dim)
        self.check(index.search(queries, k), queries, k, ids, vectors)

    @pytest.mark.parametrize("dim", [1, 3, 7, 383, 4096])
    @pytest.mark.parametrize("q", [1, 20])
    def test_odd_dimensions(self, dim: int, q: int) -> None:
        rng = np.random.default_rng(dim)
        index, ids, vectors = self.filled(rng, 140, dim)
        queries = random_vectors(rng, q, dim)
        self.check(index.search(queries, 10), queries, 10, ids, vectors)

    def test_empty_index_and_no_queries(self) -> None:
        index = self.make(5)
        assert len(index) == 0
        self.check(index.search(np.ones((2, 5), np.float32), 3), np.ones((2, 5), np.float32), 3, *self.nothing(5))
        assert index.search(np.empty((0, 5), np.float32), 3).ids.shape == (0, 3)

    @staticmethod
    def nothing(dim: int) -> tuple[Ids, Floats]:
        return np.empty(0, np.int64), np.empty((0, dim), np.float32)

    def test_a_vector_is_nearest_to_itself(self) -> None:
        rng = np.random.default_rng(1)
        index, ids, vectors = self.filled(rng, 200, 32)
        if self.metric != "ip":
            assert np.mean(index.search(vectors, 1).ids[:, 0] == ids) >= self.least_recall

    @pytest.mark.parametrize("q", [1, 30])
    def test_ties_go_to_the_smaller_id(self, q: int) -> None:
        rng = np.random.default_rng(2)
        index = self.make(24)
        ids = rng.permutation(400).astype(np.int64)
        index.add(ids, np.tile(random_vectors(rng, 1, 24), (400, 1)))
        found = index.search(random_vectors(rng, q, 24), 50)
        if self.exact:
            assert (found.ids == np.arange(50)).all()
        else:
            assert (np.diff(found.ids) > 0).all()

    @pytest.mark.parametrize("q", [2, 33, 600])
    def test_a_batch_answers_as_its_queries_one_by_one(self, q: int) -> None:
        rng = np.random.default_rng(q)
        index, _, _ = self.filled(rng, 500, 40)
        queries = random_vectors(rng, q, 40)
        together = index.search(queries, 10)
        for i in range(0, q, max(q // 20, 1)):
            alone = index.search(queries[i : i + 1], 10)
            assert self.agree(Matches(together.ids[i : i + 1], together.scores[i : i + 1]), alone)

    def test_threads_change_nothing(self) -> None:
        rng = np.random.default_rng(3)
        index, _, _ = self.filled(rng, 5000, 64)
        queries = random_vectors(rng, 70, 64)
        one = index.search(queries, 10, threads=1)
        for threads in (0, 2, 5):
            more = index.search(queries, 10, threads=threads)
            assert self.agree(one, more)

    def test_parts_of_a_collection_merge_to_the_whole(self) -> None:
        rng = np.random.default_rng(4)
        ids, vectors, queries = np.arange(90), random_vectors(rng, 90, 16), random_vectors(rng, 5, 16)
        found = []
        for part in np.array_split(rng.permutation(90), 3):
            index = self.make(16)
            index.add(ids[part], vectors[part])
            found.append(index.search(queries, 7))
        self.check(merge_matches(found, 7), queries, 7, ids, vectors)

    # --- filters

    @examples
    @given(seed=seeds, n=st.integers(1, 400), share=st.floats(0, 1), q=st.sampled_from([1, 5, 40]))
    def test_filter_searches_only_among_the_allowed(self, seed: int, n: int, share: float, q: int) -> None:
        rng = np.random.default_rng(seed)
        index, ids, vectors = self.filled(rng, n, 19)
        unknown = rng.integers(10 * n + 1, 20 * n + 2, 5)
        allowed = rng.random(n) < share
        queries = random_vectors(rng, q, 19)
        found = index.search(queries, 10, filter=np.unique(np.concatenate([ids[allowed], unknown])))
        self.check(found, queries, 10, ids[allowed], vectors[allowed])

    def test_filter_of_none_and_of_all(self) -> None:
        rng = np.random.default_rng(5)
        index, ids, vectors = self.filled(rng, 150, 19)
        queries = random_vectors(rng, 3, 19)
        found = index.search(queries, 4, filter=np.empty(0, np.int64))
        self.check(found, queries, 4, *self.nothing(19))
        self.check(index.search(queries, 4, filter=np.sort(ids)), queries, 4, ids, vectors)

    # --- changes

    @examples
    @given(seed=seeds, n=st.integers(1, 200), share=st.floats(0, 1))
    def test_deleted_vectors_are_gone_and_their_ids_are_free(self, seed: int, n: int, share: float) -> None:
        rng = np.random.default_rng(seed)
        index, ids, vectors = self.filled(rng, n, 12)
        queries = random_vectors(rng, 4, 12)
        gone = rng.random(n) < share
        assert index.delete(np.concatenate([ids[gone], [10**9]])) == gone.sum()
        assert index.delete(ids[gone]) == 0
        assert len(index) == n - gone.sum()
        self.check(index.search(queries, 9), queries, 9, ids[~gone], vectors[~gone])

        vectors = vectors.copy()
        vectors[gone] = random_vectors(rng, int(gone.sum()), 12)
        index.add(ids[gone], vectors[gone])
        assert len(index) == n
        self.check(index.search(queries, 9), queries, 9, ids, vectors)
        self.check(index.search(queries, 9, filter=np.sort(ids[gone])), queries, 9, ids[gone], vectors[gone])

    def test_adding_in_pieces_is_adding_at_once(self) -> None:
        rng = np.random.default_rng(6)
        ids, vectors = rng.permutation(1000).astype(np.int64), random_vectors(rng, 1000, 21)
        index = self.make(21)
        for piece in np.array_split(np.arange(1000), 37):
            index.add(ids[piece], vectors[piece])
        queries = random_vectors(rng, 6, 21)
        self.check(index.search(queries, 12), queries, 12, ids, vectors)

    def test_a_saved_index_answers_the_same_and_can_be_changed(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(7)
        index, ids, vectors = self.filled(rng, 333, 30)
        index.delete(ids[:33])
        again = self.reopen(index, tmp_path / "index")
        if again is None:
            pytest.skip("this engine keeps nothing")
        queries = random_vectors(rng, 9, 30)
        for i in (index, again):
            i.add(ids[:10], vectors[:10])
            i.delete(ids[40:50])
        kept = np.r_[0:10, 33:40, 50:333]
        assert (again.dim, again.metric, len(again)) == (30, self.metric, len(kept))
        self.check(again.search(queries, 11), queries, 11, ids[kept], vectors[kept])
        assert self.agree(index.search(queries, 11), again.search(queries, 11))

    def test_searches_run_beside_each_other_and_beside_writers(self) -> None:
        rng = np.random.default_rng(8)
        index, ids, vectors = self.filled(rng, 2000, 48)
        queries = random_vectors(rng, 40, 48)
        own, others = np.sort(ids), 10**6 + np.arange(400)
        expected = index.search(queries, 5, threads=1)

        def search(_: int) -> bool:
            return self.agree(index.search(queries, 5, filter=own, threads=1), expected)

        def write(_: int) -> bool:
            for start in range(0, 400, 20):
                index.add(others[start : start + 20], vectors[:20])
            return index.delete(others) == 400

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(lambda job: job[0](job[1]), [(write, 0)] + [(search, i) for i in range(30)]))

    # --- wrong input

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_numbers_that_are_none_are_refused(self, bad: float) -> None:
        index = self.make(4)
        vectors = np.ones((3, 4), np.float32)
        vectors[2, 1] = bad
        with pytest.raises(InputError, match=r"\[2\]"):
            index.add(np.arange(3), vectors)
        assert len(index) == 0
        index.add(np.arange(2), vectors[:2])
        with pytest.raises(InputError, match=r"\[2\]"):
            index.search(vectors, 1)

    @pytest.mark.parametrize(
        ("ids", "vectors"),
        [
            ([7], np.ones((1, 4))),
            ([8, 8], np.ones((2, 4))),
            ([-1], np.ones((1, 4))),
            ([8], np.ones((2, 4))),
            ([8], np.ones((1, 5))),
            ([8], np.ones(4)),
            ([8.5], np.ones((1, 4))),
            ([8], np.full((1, 4), "x")),
        ],
        ids=["there", "twice", "negative", "count", "wide", "flat", "fraction", "text"],
    )
    def test_wrong_additions_are_refused_whole(self, ids: list[float], vectors: NDArray[np.float64]) -> None:
        index = self.make(4)
        index.add(np.array([7]), np.ones((1, 4), np.float32))
        with pytest.raises(InputError):
            index.add(np.array(ids), vectors)  # type: ignore[arg-type]
        assert len(index) == 1

    def test_wrong_searches_are_refused(self) -> None:
        index = self.make(4)
        index.add(np.array([7]), np.ones((1, 4), np.float32))
        query = np.ones((1, 4), np.float32)
        for k in (0, -3, 2**40):
            with pytest.raises(InputError, match="k is"):
                index.search(query, k)
        with pytest.raises(InputError, match="sorted"):
            index.search(query, 1, filter=np.array([3, 2]))
        with pytest.raises(InputError, match="threads"):
            index.search(query, 1, threads=-1)
        with pytest.raises(InputError, match="shape"):
            index.search(np.ones((1, 3), np.float32), 1)
        with pytest.raises(InputError, match=r"queries\[None, :\]"):
            index.search(query[0], 1)

    def test_zeros_have_no_direction(self) -> None:
        index = self.make(3)
        zeros = np.zeros((1, 3), np.float32)
        if self.metric == "cosine":
            with pytest.raises(InputError, match="direction"):
                index.add(np.array([1]), zeros)
            with pytest.raises(InputError, match="direction"):
                index.search(zeros, 1)
        else:
            index.add(np.array([1]), zeros)
            assert index.search(zeros, 1).scores[0, 0] == 0
