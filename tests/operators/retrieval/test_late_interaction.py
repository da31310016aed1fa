"""MultiVector and MaxSimRerank against MaxSim written out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.encoders.multivector import HashingTokenEncoder
from rag.errors import CollectionError, ConfigError, InputError, NotFoundError
from rag.operators import Flow
from rag.operators.post_retrieval import MaxSimRerank, Top
from rag.operators.retrieval import BM25, Dense, EmbedQuery, Fuse, MultiVector
from rag.pipelines import Pipeline
from rag.types import Chunk, Document, Hits, Query

WORDS = "lake boat winter summer storm light rope sail hour euro day yellow mast wind".split()
RNG = np.random.default_rng(7)
TEXTS = [" ".join(RNG.choice(WORDS, RNG.integers(3, 12))) for _ in range(40)] + ["...", "!"]
QUERIES = ["winter storm", "a yellow rope on the boat", "euro hour day", "sail"]


def filled(path: Path, tokens: str | None) -> Collection:
    made = Collection.create(path, encoder="hashing:64", tokens=tokens)
    documents = [Document(f"d{i}", text, {"even": i % 2 == 0}) for i, text in enumerate(TEXTS)]
    with made.writer() as writer:
        for start in range(0, len(TEXTS), 15):
            some, texts = documents[start : start + 15], TEXTS[start : start + 15]
            vectors = made.encoder.encode_documents(texts)
            encoded = made.token_encoder.encode_documents(texts) if tokens else None
            writer.add(some, [[Chunk(d.id, d.text, 0, len(d.text))] for d in some], vectors, tokens=encoded)
            writer.commit()
    return made


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    with filled(tmp_path_factory.mktemp("late") / "kb", "hashing:64") as made:
        yield made


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    with filled(tmp_path_factory.mktemp("plain") / "kb", None) as made:
        yield made


def scores_of(kb: Collection, query: str, ids: np.ndarray) -> np.ndarray:
    """MaxSim of a query with each of these chunks; -inf for those without a word."""
    asked = kb.token_encoder.encode_queries([query])[0].astype(np.float64)
    stored = kb.token_encoder.encode_documents([c.text for c in kb.chunks(ids)])
    return np.array([(asked @ stored[i].T).max(axis=1).sum() if len(stored[i]) else -np.inf for i in range(len(ids))])


@pytest.mark.parametrize("k", [1, 5, None])
@pytest.mark.parametrize("filter", [None, "even"])
def test_multi_vector_ranks_as_maxsim_does(kb: Collection, k: int | None, filter: str | None):
    ids = kb.chunk_ids() if filter is None else kb.select(filter)
    for text in QUERIES:
        hits = MultiVector(k=k, filter=filter).run(Query(text), kb)
        scores = scores_of(kb, text, ids)
        best = np.sort(scores[np.isfinite(scores)])[::-1][:k]
        np.testing.assert_allclose(hits.scores, best, atol=0.01)
        np.testing.assert_allclose(scores[np.searchsorted(ids, hits.ids)], hits.scores, atol=0.01)


def test_candidates_come_from_the_vector_that_a_query_carries(kb: Collection, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rag.collection.late.ALL", 0)
    vector = kb.encoder.encode_queries([TEXTS[4]])[0]
    (near,) = kb.search_dense(vector, 3)
    queries = [Query(QUERIES[0], vector=vector), Query(QUERIES[1])]
    both = MultiVector(k=3, candidates=3).run_batch(queries, kb)
    assert sorted(both[0].ids.tolist()) == sorted(near.ids.tolist())
    assert both == [MultiVector(k=3, candidates=3).run(query, kb) for query in queries]


@pytest.mark.parametrize("first", [Dense(k=20), BM25(k=20), Dense(k=None)])
def test_reranking_scores_the_hits_by_maxsim(kb: Collection, first: Dense):
    for text in QUERIES:
        hits = first.run(Query(text), kb)
        ranked = MaxSimRerank(k=7).run(Query(text), hits, kb)
        scores = scores_of(kb, text, hits.ids)
        worded = hits.take(np.isfinite(scores)).with_scores(scores[np.isfinite(scores)]).top(7)
        np.testing.assert_allclose(ranked.scores, worded.scores, atol=0.01)
        assert set(ranked.ids.tolist()) <= set(hits.ids.tolist())
        assert ranked.store is hits.store


def test_reranking_keeps_columns_and_leaves_out_what_is_deeper(kb: Collection):
    hits = Dense(k=30).run(Query("winter"), kb)
    hits = hits.with_columns(place=np.arange(30))
    ranked = MaxSimRerank(k=30, depth=10).run(Query("winter"), hits, kb)
    assert sorted(ranked.columns["place"].tolist()) == list(range(10))
    assert hits.ids[ranked.columns["place"]].tolist() == ranked.ids.tolist()


def test_without_tokens_or_hits(kb: Collection):
    hits = Dense(k=9).run(Query("winter"), kb)
    assert MaxSimRerank(k=9).run(Query("?!"), hits, kb).ids.tolist() == hits.ids.tolist()
    assert len(MaxSimRerank().run(Query("winter"), Hits(), kb)) == 0
    assert MaxSimRerank().run_batch([], [], kb) == []
    assert len(MultiVector().run(Query("?!"), kb)) == 0
    wordless = Hits([40, 41], [1, 1], store=kb)
    assert len(MaxSimRerank().run(Query("winter"), wordless, kb)) == 0


@pytest.mark.parametrize("k", [None, 9, 300])
@pytest.mark.parametrize("few", [0, 2])
def test_what_a_pipeline_asks_for_less_of_is_the_same(
    kb: Collection, k: int | None, few: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rag.collection.late.ALL", few)
    flow = MultiVector(k=k, candidates=4)
    for text in QUERIES:
        expected = flow.run(Query(text), kb).top(3)
        assert Pipeline(flow >> Top(k=3), collection=kb).run(text).hits == expected
        assert flow.limited(3).run(Query(text), kb).top(3) == expected


@pytest.mark.parametrize(
    "flow",
    [
        (Dense(k=20) | BM25(k=20)) >> Fuse() >> MaxSimRerank(k=5),
        (Dense(k=20) | MultiVector(k=20, candidates=20)) >> Fuse(k=5),
    ],
)
def test_a_query_is_encoded_once_for_vector_and_tokens(kb: Collection, monkeypatch: pytest.MonkeyPatch, flow: Flow):
    calls = []

    def counted(self: HashingTokenEncoder, texts: list[str]) -> object:
        calls.append(len(texts))
        return self.single.encode_queries(texts), self.encode_queries(texts)

    plain = [Pipeline(flow, collection=kb, rewrite=False).run(text).hits for text in QUERIES]
    monkeypatch.setattr(HashingTokenEncoder, "encode_queries_both", counted)
    shared = Pipeline(flow, collection=kb)
    assert [state.hits for state in shared.run_batch(QUERIES)] == plain
    assert calls == [len(QUERIES)]
    assert [shared.run(text).hits for text in QUERIES] == plain


def test_what_a_query_carries_is_used_and_not_carried_to_another_text(kb: Collection):
    plain = Query(QUERIES[0])
    carrying = EmbedQuery(tokens=True).run(plain, kb)
    assert carrying.vector is not None
    assert carrying.tokens is not None
    assert len(carrying.tokens) == 2
    lying = replace(carrying, text=QUERIES[1])
    for operator in (MultiVector(k=5), MultiVector(k=5, candidates=5)):
        assert operator.run(lying, kb) == operator.run(plain, kb)
        assert operator.run_batch([lying, Query(QUERIES[1])], kb)[1] == operator.run(Query(QUERIES[1]), kb)
    honest = carrying.with_text(QUERIES[1])
    assert (honest.text, honest.vector, honest.tokens) == (QUERIES[1], None, None)
    assert EmbedQuery().run(plain, kb).tokens is None


def test_embedding_tokens_where_there_are_none_leaves_them_out(plain: Collection):
    assert EmbedQuery(tokens=True).run(Query("winter"), plain).tokens is None


def test_errors_say_what_to_do(kb: Collection, plain: Collection):
    hits = BM25().run(Query("winter"), plain)
    for use in (lambda: MultiVector().run(Query("x"), plain), lambda: MaxSimRerank().run(Query("x"), hits, plain)):
        with pytest.raises(CollectionError, match=r"no token vectors.*rag upgrade .* --multi-vector"):
            use()
    with pytest.raises(InputError, match="meet the collection"):
        MaxSimRerank().run(Query("x"), hits, kb)
    with pytest.raises(NotFoundError, match="chunk 99"):
        MaxSimRerank().run(Query("x"), Hits([3, 99], [1, 1]), kb)
    with pytest.raises(ConfigError, match="candidates"):
        MultiVector(candidates=0)
    assert MultiVector.deterministic
    assert MaxSimRerank.deterministic
