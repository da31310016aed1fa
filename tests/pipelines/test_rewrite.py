"""Rewritten plans: less work, equal results."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Texts
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.collection import Collection
from rag.encoders import load
from rag.operators import Flow, Operator, Sequence
from rag.operators.post_retrieval import MaxSimRerank, Top, Where
from rag.operators.retrieval import BM25, Dense, EmbedQuery, Fuse, MultiVector
from rag.pipelines import Loop, Pipeline, Route, Try
from rag.pipelines.rewrite import rewrite
from rag.types import Chunk, Document, Hits
from tests.pipelines.conftest import shout
from tests.pipelines.test_patterns import free_route


class First(Operator, name="testing.first"):
    """Keep the first hits."""

    k: int = 3

    def run(self, hits: Hits) -> Hits:
        return hits.top(self.k)

    def cut_off(self) -> int | None:
        return self.k


class Counting:
    """An encoder that counts the queries it embeds."""

    def __init__(self) -> None:
        self._encoder = load("hashing:32")
        self.queries = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._encoder, name)

    def encode_queries(self, texts: Texts[str]) -> np.ndarray:
        self.queries += len(texts)
        return self._encoder.encode_queries(texts)


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    words = "red green blue cat dog bird runs sleeps sings loud".split()
    rng = np.random.default_rng(7)
    texts = [" ".join(rng.choice(words, 6)) for _ in range(45)]
    texts += texts[:15]  # equal chunks, so that there are equal scores
    path: Path = tmp_path_factory.mktemp("kb") / "kb"
    with Collection.create(path, encoder="hashing:32") as made:
        documents = [Document(f"d{i}", text, {"number": i}) for i, text in enumerate(texts)]
        with made.writer() as writer:
            chunks = [[Chunk(d.id, d.text, 0, len(d.text))] for d in documents]
            writer.add(documents, chunks, made.encoder.encode_documents(texts))
            writer.commit()
        made.refresh()
        yield made


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        (Dense(k=1000) >> First(k=10), Dense(k=10) >> First(k=10)),
        (Dense(k=5) >> First(k=10), Dense(k=5) >> First(k=10)),
        (Dense(k=50) >> Top(k=10, min_score=0.2), Dense(k=10) >> Top(k=10, min_score=0.2)),
        (BM25(k=50) >> First(k=10) >> First(k=2), BM25(k=10) >> First(k=10) >> First(k=2)),
        ((Dense() | BM25()) >> Fuse() >> First(k=4), (Dense() | BM25()) >> Fuse(k=4) >> First(k=4)),
        ((Dense(k=5) | Dense(k=9)) >> Fuse(), EmbedQuery() >> (Dense(k=5) | Dense(k=9)) >> Fuse()),
        (
            (Dense() | BM25()) >> Fuse() >> MaxSimRerank(),
            EmbedQuery(tokens=True) >> (Dense() | BM25()) >> Fuse() >> MaxSimRerank(),
        ),
        (Dense() >> shout() >> MaxSimRerank(), Dense() >> shout() >> MaxSimRerank()),
        ((Dense() | MultiVector()) >> Fuse(), EmbedQuery(tokens=True) >> (Dense() | MultiVector()) >> Fuse()),
        ((Dense() | shout() >> Dense()) >> Fuse(), (Dense() | shout() >> Dense()) >> Fuse()),
        (Loop(Dense(k=9) >> First(k=2)), Loop(Dense(k=2) >> First(k=2))),
        (Try(Dense(k=9) >> First(k=2)), Try(Dense(k=2) >> First(k=2))),
        (
            Route(free_route(), a=Dense(k=9) >> First(k=2), b=BM25()),
            Route(free_route(), a=Dense(k=2) >> First(k=2), b=BM25()),
        ),
        (Dense(k=None) >> Where(filter="a > 1"), Sequence((Dense(k=None, filter="a > 1"),))),
        (Dense(k=None) >> Where(filter="a > 1") >> First(k=4), Dense(k=4, filter="a > 1") >> First(k=4)),
        (
            BM25(k=None, filter="a > 1") >> Where(filter="b") >> Where(filter="c") >> Top(k=2),
            BM25(k=2, filter="(a > 1) and ((b) and (c))") >> Top(k=2),
        ),
        (Dense(k=9, filter="a > 1") >> Where(filter="a > 1"), Sequence((Dense(k=9, filter="a > 1"),))),
        (Dense(k=9) >> Where(filter="a > 1"), Dense(k=9) >> Where(filter="a > 1")),
        (Dense(k=9) >> Where(filter="a > 1") >> First(k=4), Dense(k=9) >> Where(filter="a > 1") >> First(k=4)),
        (Dense(k=None) >> First(k=9) >> Where(filter="b"), Dense(k=9) >> First(k=9) >> Where(filter="b")),
        (
            (Dense(k=None) | BM25(k=None)) >> Fuse() >> Where(filter="b"),
            (Dense(k=None) | BM25(k=None)) >> Fuse() >> Where(filter="b"),  # ranks count in a fusion
        ),
        (Try(Dense(k=None) >> Where(filter="b")), Try(Sequence((Dense(k=None, filter="b"),)))),
    ],
)
def test_rules(flow: Flow, expected: Flow):
    assert rewrite(flow) == expected
    assert rewrite(rewrite(flow)) == rewrite(flow)


def test_one_query_is_embedded_once(kb: Collection):
    counting = Counting()
    with Collection.open(kb.path, encoder=counting) as counted:  # type: ignore[arg-type]
        branches = (Dense(k=5) | Dense(k=20, filter="number < 30") | BM25()) >> Fuse()
        Pipeline(branches, collection=counted).run("red cat")
        assert counting.queries == 1
        Pipeline(branches, collection=counted, rewrite=False).run("red cat")
        assert counting.queries == 3


def test_explain_shows_before_and_after():
    text = Pipeline(Dense(k=1000) >> First(k=10)).explain()
    assert "written Dense(k=1000) >> First(k=10)" in text
    assert "runs as Dense(k=10) >> First(k=10)" in text
    assert "runs as" not in Pipeline(Dense(k=10)).explain()


retrievers = st.one_of(
    st.integers(1, 30).map(lambda k: Dense(k=k)),
    st.integers(1, 30).map(lambda k: BM25(k=k)),
    st.integers(1, 30).map(lambda k: Dense(k=k, filter="number > 20")),
    st.sampled_from([Dense(k=None), BM25(k=None), BM25(k=None, filter="number < 50")]),
)
filters = st.sampled_from(["number > 20", "number < 50", "number in [1, 2, 50]", "not (number >= 3)", "exists(none)"])


@st.composite
def retrieval_flows(draw: st.DrawFn) -> Flow:
    flow = draw(retrievers)
    for _ in range(draw(st.integers(0, 2))):
        flow = flow >> Where(filter=draw(filters))
    if draw(st.booleans()):
        for _ in range(draw(st.integers(1, 2))):
            branch = draw(retrievers)
            flow = flow | (shout() >> branch if draw(st.booleans()) else branch)
        flow = flow >> Fuse(method=draw(st.sampled_from(["rrf", "weighted"])))
    if draw(st.booleans()):
        flow = flow >> First(k=draw(st.integers(1, 20)))
    if draw(st.booleans()):
        return flow >> Top(k=5, min_score=draw(st.sampled_from([None, 0.1, 0.5, 2.0])))
    return flow


@given(flow=retrieval_flows(), query=st.sampled_from(["red cat", "loud dog sings", "nothing here", "bird"]))
@settings(max_examples=200, deadline=None)
def test_random_flows_give_the_same_hits(kb: Collection, flow: Flow, query: str):
    plain = Pipeline(flow, collection=kb, rewrite=False).run(query).hits
    lazy = Pipeline(flow, collection=kb).run(query).hits
    assert lazy.ids.tolist() == plain.ids.tolist()
    np.testing.assert_allclose(lazy.scores, plain.scores, rtol=1e-6)


def test_the_best_that_pass_are_found_without_looking_at_all(kb: Collection, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[int, Any]] = []
    search = kb.search_dense

    def watched(vectors: np.ndarray, k: int, *, filter: Any, **more: Any) -> list[Hits]:
        asked.append((k, filter))
        return search(vectors, k, filter=filter, **more)

    monkeypatch.setattr(kb, "search_dense", watched)
    flow = Dense(k=None) >> Where(filter="number >= 40") >> Top(k=5)
    found = Pipeline(flow, collection=kb).run("red cat").hits
    plain = Pipeline(flow, collection=kb, rewrite=False).run("red cat").hits
    assert asked == [(5, ["number >= 40"]), (60, [None])]
    assert found.ids.tolist() == plain.ids.tolist()
    assert len(found) == 5
    assert all(chunk.metadata["number"] >= 40 for chunk in found.chunks())
