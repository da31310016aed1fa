"""Hits as columns, and the small records that flow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import InputError, MissingExtraError, NotFoundError, OperatorError, RagError, did_you_mean
from rag.types import Chunk, Context, Hits, Passage, Query, Usage, as_queries, line_of


class Store:
    """Chunks whose text is their id."""

    def chunks(self, ids: np.ndarray) -> list[Chunk]:
        return [Chunk("d", str(i), 0, len(str(i)), id=int(i)) for i in ids]


def hits(n: int = 5) -> Hits:
    return Hits(np.arange(n) * 10, np.linspace(1, 0.2, n), {"branch": np.arange(n) % 2}, Store())


def test_columns_have_fixed_types_and_cannot_be_changed():
    h = hits()
    assert h.ids.dtype == np.int64
    assert h.scores.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        h.scores[0] = 7
    with pytest.raises(ValueError, match="read-only"):
        h.columns["branch"][0] = 7


def test_the_callers_own_arrays_stay_theirs():
    ids, scores = np.arange(3), np.ones(3, dtype=np.float32)
    view = np.arange(6)[:3]
    h = Hits(ids, scores, {"v": view})
    ids[0], scores[0], view[0] = 9, 9, 9
    assert h.ids.tolist() == [0, 1, 2]
    assert h.scores.tolist() == [1, 1, 1]
    assert h.columns["v"].tolist() == [0, 1, 2]


@given(st.lists(st.floats(-1e6, 1e6, width=32), max_size=30))
def test_new_scores_sort_and_keep_the_order_of_equals(scores: list[float]):
    h = Hits(np.arange(len(scores)), np.zeros(len(scores))).with_scores(scores)
    assert h.ids.tolist() == sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def test_take_and_top_carry_all_columns():
    h = hits().take([3, 1])
    assert h.ids.tolist() == [30, 10]
    assert h.columns["branch"].tolist() == [1, 1]
    assert hits().take(hits().scores > 0.5).ids.tolist() == [0, 10, 20]
    assert len(hits().top(2)) == 2
    assert len(hits().top(99)) == 5
    assert len(hits().top(-1)) == 0
    assert hits().with_columns(rank=np.arange(5)).columns.keys() == {"branch", "rank"}


def test_text_comes_from_the_store():
    assert [c.text for c in hits(3).chunks()] == ["0", "10", "20"]
    assert Hits().chunks() == []
    with pytest.raises(InputError, match="carry no store"):
        Hits([1], [1.0]).chunks()


def test_equality_looks_at_ids_scores_and_columns():
    assert hits() == hits()
    assert hits() != hits().top(4)
    assert hits() != hits().with_columns(branch=np.zeros(5))
    assert hits() != "hits"


@pytest.mark.parametrize(
    ("ids", "scores", "columns"), [([1, 2], [1.0], {}), ([1], [1.0], {"x": [1, 2]}), ([[1]], [[1.0]], {})]
)
def test_columns_of_other_lengths_are_refused(ids: list, scores: list, columns: dict):
    with pytest.raises(InputError, match="hits: "):
        Hits(ids, scores, columns)


def test_scores_of_another_length_are_refused():
    with pytest.raises(InputError, match="5 hits but 1 scores"):
        hits().with_scores([1.0])


def test_a_context_reads_as_numbered_passages():
    context = Context((Passage(1, 7, "d", "first", 0, 5, 1, 0.5), Passage(2, 8, "d", "second", 9, 15, 2, 0.4)))
    assert str(context) == "[1] first\n\n[2] second"
    assert [p.number for p in context] == [1, 2]


def test_usage_adds_up():
    assert Usage(1, 2, 1) + Usage(10, 20, 1) == Usage(11, 22, 2)


def test_lines_count_from_one():
    assert [line_of("a\nb\n", i) for i in range(4)] == [1, 1, 2, 2]


def test_questions_become_queries():
    assert as_queries(["a", Query("b", "x > 1")]) == [Query("a"), Query("b", "x > 1")]


def test_errors_say_what_to_do():
    assert str(NotFoundError("no x", hint="did you mean 'y'?")) == "no x (did you mean 'y'?)"
    assert isinstance(NotFoundError("x"), LookupError)
    assert isinstance(InputError("x"), ValueError)
    error = MissingExtraError("reading PDF files", "readers")
    assert isinstance(error, ImportError)
    assert "pip install 'modular-rag[readers]'" in str(error)
    failed = OperatorError("ZeroDivisionError: x")
    failed.node = "fuse"
    assert str(failed) == "node 'fuse': ZeroDivisionError: x"
    assert issubclass(OperatorError, RagError)


def test_suggestions():
    assert did_you_mean("dens", ["dense", "bm25"]) == "did you mean 'dense'?"
    assert did_you_mean("qqq", ["dense", "bm25"]) == "known: bm25, dense"
    assert did_you_mean("qqq", []) == ""
