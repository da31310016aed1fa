"""Dense and BM25 over a small collection, against brute force; filters reach both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.errors import ConfigError
from rag.operators.post_retrieval import MaxSimRerank
from rag.operators.retrieval import BM25, Dense, Fuse, MultiVector
from rag.pipelines import Pipeline
from rag.types import Chunk, Document, Query

TEXTS = [
    "the cat sat on the mat",
    "dogs chase cats in the garden",
    "a manifest lists files and checksums",
    "writers take a lock before they commit",
    "the garden gate is green",
    "cats and dogs and cats again",
]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    path: Path = tmp_path_factory.mktemp("kb") / "kb"
    with Collection.create(path, encoder="hashing:64", tokens="hashing:64") as made:
        documents = [
            Document(f"d{i}", text, {"year": 2015 + i, "kind": "even" if i % 2 == 0 else "odd"})
            for i, text in enumerate(TEXTS)
        ]
        with made.writer() as writer:
            writer.add(
                documents,
                [[Chunk(d.id, d.text, 0, len(d.text))] for d in documents],
                made.encoder.encode_documents(TEXTS),
                tokens=made.token_encoder.encode_documents(TEXTS),
            )
            writer.commit()
        made.refresh()
        yield made


def test_dense_finds_what_brute_force_finds(collection: Collection):
    query = Query("cats in a garden")
    hits = Dense(k=4).run(query, collection)
    vectors = collection.encoder.encode_documents(TEXTS).astype(np.float64)
    scores = vectors @ collection.encoder.encode_queries([query.text])[0]
    texts = [chunk.text for chunk in hits.chunks()]
    assert texts == [TEXTS[i] for i in np.argsort(-scores, kind="stable")[:4]]
    np.testing.assert_allclose(hits.scores, np.sort(scores)[::-1][:4], atol=1e-5)


def test_dense_takes_the_vector_that_a_query_carries(collection: Collection):
    vector = collection.encoder.encode_queries(["lock commit writers"])[0]
    assert Dense(k=1).run(Query("nothing to do with it", vector=vector), collection).chunks()[0].text == TEXTS[3]


def test_bm25_returns_only_chunks_with_a_word_of_the_query(collection: Collection):
    hits = BM25(k=10).run(Query("cats"), collection)
    assert {chunk.text for chunk in hits.chunks()} == {TEXTS[0], TEXTS[1], TEXTS[5]}
    assert hits.chunks()[0].text == TEXTS[5]
    assert len(BM25().run(Query("zebra"), collection)) == 0


@pytest.mark.parametrize("retriever", [Dense, BM25, MultiVector])
def test_filters_of_operator_and_query_both_hold(retriever: type, collection: Collection):
    query = Query("cats dogs garden manifest lock", filter='kind == "odd"')
    found = retriever(filter="year >= 2016 and year < 2020").run(query, collection)
    years = {collection.document(c.document).metadata["year"] for c in found.chunks()}
    assert years == {2016, 2018}
    with pytest.raises(ConfigError, match="yeer"):
        retriever(filter="yeer > 3").run(query, collection)


@pytest.mark.parametrize(
    "flow",
    [
        Dense(k=3),
        BM25(k=3),
        (Dense(k=5) | BM25(k=5)) >> Fuse(k=3),
        MultiVector(k=3),
        MultiVector(k=3, recall=1),
        (Dense(k=5) | BM25(k=5)) >> Fuse() >> MaxSimRerank(k=3),
    ],
)
def test_a_batch_gives_what_single_runs_give(flow: Dense, collection: Collection):
    pipeline = Pipeline(flow, collection=collection)
    queries = [
        Query("cats"),
        Query("the garden", filter="year > 2016"),
        Query("commit", filter="year > 2016"),
        Query("?"),
    ]
    together = [state.hits for state in pipeline.run_batch(queries)]
    alone = [pipeline.run(query).hits for query in queries]
    for a, b in zip(together, alone, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-5)


def test_a_pipeline_opens_its_collection_by_name(collection: Collection):
    pipeline = Pipeline(Dense(k=1), collection=str(collection.path))
    assert pipeline.run("lock commit writers").hits.chunks()[0].text == TEXTS[3]
