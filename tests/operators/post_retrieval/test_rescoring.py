"""Maximal marginal relevance, order and recency against their definitions."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.collection import Collection
from rag.operators.post_retrieval import MMR, BuildContext, Order, Recency
from rag.operators.retrieval import Dense
from rag.pipelines import Pipeline
from rag.types import Chunk, Context, Hits, Passage, Query


class Vectors:
    """What MMR asks of a collection."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        return self._vectors[ids]


def plain_mmr(query: np.ndarray, vectors: np.ndarray, k: int, weight: float) -> list[tuple[int, float]]:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    left, taken = list(range(len(vectors))), []
    while left and len(taken) < k:
        gains = {
            i: weight * cosine(vectors[i], query)
            - (1 - weight) * max([0.0, *(cosine(vectors[i], vectors[j]) for j, _ in taken)])
            for i in left
        }
        best = max(gains, key=lambda i: (gains[i], -i))
        taken.append((best, gains[best]))
        left.remove(best)
    return taken


@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.integers(1, 30), st.floats(0.05, 1))
def test_mmr_is_what_a_plain_loop_selects(seed: int, n: int, k: int, weight: float):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 6)).astype(np.float32)
    query = rng.normal(size=6).astype(np.float32)
    hits = Hits(np.arange(n), np.linspace(1, 0, n))
    found = MMR(k=k, weight=weight).run(Query("", vector=query), hits, Vectors(vectors))  # type: ignore[arg-type]
    expected = plain_mmr(query.astype(float), vectors.astype(float), k, weight)
    assert found.ids.tolist() == [i for i, _ in expected]
    assert found.scores.tolist() == pytest.approx([s for _, s in expected], abs=1e-5)
    assert (np.diff(found.scores) <= 0).all()


def test_mmr_prefers_the_new_to_the_repeated():
    vectors = np.array([[1, 0.1], [1, 0.11], [0.7, -0.7]], np.float32)
    hits = Hits([0, 1, 2], [3, 2, 1], {"branch": [5, 6, 7]})
    query = Query("", vector=np.array([1, 0], np.float32))
    found = MMR(k=2).run(query, hits, Vectors(vectors))  # type: ignore[arg-type]
    assert found.ids.tolist() == [0, 2]
    assert found.columns["branch"].tolist() == [5, 7]
    by_relevance = MMR(k=2, weight=1).run(query, hits, Vectors(vectors))  # type: ignore[arg-type]
    assert by_relevance.ids.tolist() == [0, 1]


def test_mmr_of_a_batch_on_a_collection(kb: Collection):
    queries = [Query("boats in summer"), Query("storm"), Query("nothing")]
    hits = [*Dense(k=4).run_batch(queries[:2], kb), Hits(store=kb)]
    batch = MMR(k=3).run_batch(queries, hits, kb)
    assert batch == [MMR(k=3).run(q, h, kb) for q, h in zip(queries, hits, strict=True)]
    assert [len(h) for h in batch] == [3, 3, 0]
    state = Pipeline(Dense(k=4) >> MMR(k=2) >> BuildContext() >> Order(), collection=kb).run("boats in summer")
    assert len(state.context) == 2


def context(scores: list[float]) -> Context:
    passages = [Passage(i + 1, i, "d", f"text {i}", i, i + 6, 1, s) for i, s in enumerate(scores)]
    return Context(tuple(passages), 3)


def test_order_puts_the_best_where_it_says():
    given_context = context([0.9, 0.8, 0.7, 0.6, 0.5])
    orders = {by: [p.chunk for p in Order(by=by).run(given_context)] for by in ("best_first", "worst_first", "sides")}
    assert orders == {"best_first": [0, 1, 2, 3, 4], "worst_first": [4, 3, 2, 1, 0], "sides": [0, 2, 4, 3, 1]}


@given(st.lists(st.floats(-5, 5), max_size=12), st.sampled_from(["best_first", "worst_first", "sides"]))
def test_order_loses_nothing_and_numbers_anew(scores: list[float], by: Any):
    before = context(scores)
    after = Order(by=by).run(before)
    assert sorted(p.chunk for p in after) == [p.chunk for p in before]
    assert [p.number for p in after] == list(range(1, len(scores) + 1))
    assert after.left_out == 3
    if by == "sides" and scores:
        # From both ends towards the middle scores only fall.
        ranked = [p.score for p in after]
        half = (len(ranked) + 1) // 2
        assert ranked[:half] == sorted(ranked[:half], reverse=True)
        assert ranked[half:] == sorted(ranked[half:])


class Dated:
    def __init__(self, dates: list[Any]) -> None:
        self.dates = dates

    def chunks(self, ids: np.ndarray) -> list[Chunk]:
        return [Chunk("d", "", 0, 0, i, metadata={} if self.dates[i] is None else {"date": self.dates[i]}) for i in ids]


def dated(dates: list[Any], scores: list[float] | None = None) -> Hits:
    return Hits(np.arange(len(dates)), scores or np.zeros(len(dates)), store=Dated(dates))


NOW = datetime(2024, 1, 1, tzinfo=timezone.utc)


def test_recency_halves_with_every_half_life():
    hits = dated(["2024-01-01", "2023-12-22T00:00:00Z", "2023-12-12T00:00:00+00:00", "2030"])
    found = Recency(half_life=10, weight=1, now=NOW).run(hits)
    assert found.ids.tolist() == [0, 3, 1, 2]
    assert found.scores.tolist() == pytest.approx([1, 1, 0.5, 0.25])


def test_recency_weighs_age_against_relevance():
    hits = dated([2010, 2023], [7.0, 3.0])
    assert Recency(now=NOW, weight=0).run(hits).scores.tolist() == [1, 0]
    assert Recency(now=NOW, weight=0.8).run(hits).ids.tolist() == [1, 0]
    negative = dated([2010, 2023], [-3.0, -7.0])
    assert Recency(now=NOW, weight=0.2).run(negative).ids.tolist() == [0, 1]


def test_what_becomes_of_chunks_without_a_date():
    hits = dated([2024, None, "2023-01", "long ago", True, ["2024"], 1700000000, "20230101"])
    neutral = Recency(now=NOW, weight=1).run(hits)
    assert neutral.scores[1:7].tolist() == pytest.approx([float(neutral.scores[[0, 7]].mean())] * 6)
    old = Recency(now=NOW, weight=1, missing="old").run(hits)
    assert old.scores[2:].tolist() == [0] * 6
    assert Recency(now=NOW, missing="drop").run(hits).ids.tolist() == [0, 2]
    assert len(Recency(now=NOW, missing="drop").run(dated([None]))) == 0
    assert Recency(now=NOW, weight=1).run(dated([None, None])).ids.tolist() == [0, 1]


def test_recency_takes_its_time_from_settings_or_the_clock():
    assert len(Recency().run(Hits())) == 0
    operator = Recency(now="2024-01-01")  # type: ignore[arg-type]
    assert Recency(**operator.settings()) == operator
    flow = "flow:\n  - dense\n  - recency: {now: 2024-01-01, weight: 1}\n"
    loaded = Pipeline.from_yaml(flow)
    assert Pipeline.from_yaml(loaded.to_yaml()).to_yaml() == loaded.to_yaml()
    today = datetime.now(timezone.utc).date().isoformat()
    assert Recency(weight=1).run(dated([today])).scores[0] == pytest.approx(1, abs=0.01)


def test_years_of_a_collection(kb: Collection):
    hits = Dense(k=4).run(Query("boats"), kb)
    newest = Recency(field="year", weight=1, now=NOW).run(hits)
    years = [c.metadata["year"] for c in newest.chunks()]
    assert years == sorted(years, reverse=True)
