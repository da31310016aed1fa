"""Several interests: the mixture and its shares against definitions, and the operator over topics that are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.index.mixture import mix, shared_out
from rag.operators.retrieval import Dense, MixtureRetrieve
from rag.pipelines import Pipeline
from rag.types import Chunk, Document, Message, Query

TOPICS = 12
EACH = 40
DIM = 32


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def topics() -> np.ndarray:
    return unit(np.random.default_rng(5).normal(size=(TOPICS, DIM)))


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory, topics: np.ndarray) -> Iterator[Collection]:
    path: Path = tmp_path_factory.mktemp("mixture") / "kb"
    rng = np.random.default_rng(6)
    vectors = unit(np.repeat(topics, EACH, axis=0) + 0.12 * rng.normal(size=(TOPICS * EACH, DIM)))
    documents = [Document(f"{i}", f"text {i}", {"topic": i // EACH, "half": i % 2}) for i in range(len(vectors))]
    with Collection.create(path, encoder=f"hashing:{DIM}") as made:
        with made.writer() as writer:
            writer.add(documents, [[Chunk(d.id, d.text, 0, len(d.text))] for d in documents], vectors)
            writer.commit()
        made.refresh()
        yield made


def topics_of(hits) -> list[int]:
    return [int(chunk.document) // EACH for chunk in hits.chunks()]


def test_shares_are_given_out_as_seats() -> None:
    """Sainte-Laguë by its definition: the next place goes to the largest share / (2 places + 1)."""
    shares = np.array([0.55, 0.3, 0.15], np.float32)
    found = np.arange(60).reshape(3, 20)
    ids, scores, components = shared_out(found, shares, 20)
    places, expected = [0, 0, 0], []
    for _ in range(20):
        best = max(range(3), key=lambda c: (shares[c] / (2 * places[c] + 1), -c))
        expected.append(int(found[best, places[best]]))
        places[best] += 1
    assert ids.tolist() == expected
    assert np.bincount(components).tolist() == places == [11, 6, 3]
    assert (np.diff(scores) <= 0).all()


def test_what_two_components_found_is_there_once() -> None:
    found = np.array([[1, 2, 3, -1], [3, 1, 4, -1]])
    ids, _, components = shared_out(found, np.array([0.6, 0.4], np.float32), 10)
    assert ids.tolist() == [1, 3, 2, 4]
    assert components.tolist() == [0, 1, 0, 1]


def test_one_component_is_the_query_itself() -> None:
    rng = np.random.default_rng(1)
    query, near = unit(rng.normal(size=(1, 8))), unit(rng.normal(size=(30, 8)))
    mixture = mix(query, near, np.zeros(30, np.int64), components=1, smoothing=0.5, least=0)
    np.testing.assert_allclose(mixture.vectors, query, atol=1e-6)
    assert mixture.shares.tolist() == [1]


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_components_are_the_groups_that_are_there(topics: np.ndarray, smoothing: float) -> None:
    rng = np.random.default_rng(2)
    counts = [50, 30, 15]
    near = unit(np.repeat(topics[:3], counts, axis=0) + 0.1 * rng.normal(size=(sum(counts), DIM)))
    query = unit(topics[:3].sum(axis=0, keepdims=True))
    mixture = mix(query, near, np.zeros(len(near), np.int64), components=3, smoothing=smoothing, least=0)
    np.testing.assert_allclose(mixture.shares, np.array(counts) / sum(counts), atol=0.02)
    assert (mixture.vectors @ topics.T).argmax(axis=1).tolist() == [0, 1, 2]
    few = mix(query, near, np.zeros(len(near), np.int64), components=3, smoothing=smoothing, least=0.2)
    np.testing.assert_allclose(few.shares, np.array([50, 30]) / 80, atol=0.02)


def test_equal_points_are_one_component() -> None:
    near = np.repeat(np.eye(4, dtype=np.float32)[:1], 9, axis=0)
    mixture = mix(near[:1], near, np.zeros(9, np.int64), components=3, smoothing=0, least=0)
    assert mixture.shares.tolist() == [1]
    np.testing.assert_array_equal(mixture.vectors, near[:1])


def test_all_topics_of_a_compound_question_are_found(collection: Collection, topics: np.ndarray) -> None:
    query = Query("", vector=unit(1.6 * topics[2] + 1.0 * topics[7] + 0.9 * topics[9]))
    plain = topics_of(Dense(k=10).run(query, collection))
    hits = MixtureRetrieve(k=10).run(query, collection=collection)
    mixed = topics_of(hits)
    assert len(set(plain) & {2, 7, 9}) < 3
    assert set(mixed) == {2, 7, 9}
    assert len(hits) == len(set(hits.ids.tolist())) == 10
    assert (np.diff(hits.scores) <= 0).all()
    by_interest = {
        interest: {t for t, i in zip(mixed, hits.columns["interest"], strict=True) if i == interest}
        for interest in range(3)
    }
    assert all(len(found) == 1 for found in by_interest.values())


def test_one_interest_is_dense_search(collection: Collection, topics: np.ndarray) -> None:
    query = Query("", vector=unit(topics[1] + topics[3]))
    found = MixtureRetrieve(k=15, interests=1).run(query, collection=collection)
    assert found.ids.tolist() == Dense(k=15).run(query, collection).ids.tolist()


def test_a_conversation_has_the_interests_of_its_questions(collection: Collection) -> None:
    asked = {"first": 0, "second": 5, "third": 9}
    memory = [turn for text in list(asked)[:2] for turn in (Message("user", text), Message("assistant", "..."))]

    class Known:
        """The collection, by an encoder that knows the three questions."""

        def __init__(self) -> None:
            topics = unit(np.random.default_rng(5).normal(size=(TOPICS, DIM)))
            self.encoder = type("E", (), {"encode_queries": lambda _, texts: topics[[asked[t] for t in texts]]})()
            self.search_dense, self.vectors, self.chunks = (
                collection.search_dense,
                collection.vectors,
                collection.chunks,
            )

    known = Known()
    found = MixtureRetrieve(k=12, seen=30).run(Query("third"), memory, collection=known)  # type: ignore[arg-type]
    assert set(topics_of(found)) == {0, 5, 9}
    last = MixtureRetrieve(k=12, seen=30, earlier=1).run(Query("third"), memory, collection=known)  # type: ignore[arg-type]
    assert set(topics_of(last)) == {5, 9}
    alone = MixtureRetrieve(k=12, seen=30, earlier=0).run(Query("third"), memory, collection=known)  # type: ignore[arg-type]
    assert set(topics_of(alone)) == {9}


def test_filters_and_batches(collection: Collection, topics: np.ndarray) -> None:
    queries = [
        Query("", vector=unit(topics[0] + topics[4])),
        Query("", filter="half == 1", vector=unit(topics[0] + topics[4])),
        Query("", filter="topic == 99", vector=topics[3]),
    ]
    operator = MixtureRetrieve(k=9, filter="topic < 50")
    together = operator.run_batch(queries, [None] * 3, collection=collection)
    one_by_one = [operator.run(query, collection=collection) for query in queries]
    assert [hits.ids.tolist() for hits in together] == [hits.ids.tolist() for hits in one_by_one]
    assert all(chunk.id % 2 for chunk in together[1].chunks())
    assert [len(hits) for hits in together] == [9, 9, 0]
    assert len(Pipeline(operator, collection=collection).run("text 5").hits) == 9
