"""Documents for the tests of this folder, and a history of commits of which every state is known."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.collection import Collection, Writer
from rag.encoders import MultiVectorEncoder, TokenVectors, load, load_multi_vector
from rag.types import Chunk, Document

ENCODER = load("hashing:16")
TOKENS = load_multi_vector("hashing:16")
WORDS = [first + second for first in ("ba", "ke", "li", "mo", "nu") for second in ("dor", "fin", "gat", "hul", "rix")]


def document(name: str, version: int = 0, sentences: int = 3) -> Document:
    """A document whose text follows from its name and version; `name` and the version are words of it."""
    rng = random.Random(f"{name} {version}")
    text = "\n".join(
        f"{name} version{version} line{i} é common {' '.join(rng.choices(WORDS, k=6))}." for i in range(sentences)
    )
    tags = rng.sample(["red", "green", "blue"], k=2)
    return Document(name, text, {"version": version, "even": version % 2 == 0, "tags": tags})


def chunked(whole: Document) -> list[Chunk]:
    """A chunk for each line; its parent is the whole text."""
    chunks, start = [], 0
    for number, line in enumerate(whole.text.splitlines(keepends=True)):
        end = start + len(line)
        parent = (0, len(whole.text))
        chunks.append(Chunk(whole.id, line, start, end, parent=parent, metadata={"number": number} if number else {}))
        start = end
    return chunks


def put(writer: Writer, documents: Sequence[Document]) -> NDArray[np.int64]:
    """Add documents, chunked and encoded, with token vectors where the collection holds such."""
    chunks = [chunked(d) for d in documents]
    texts = [c.text for own in chunks for c in own]
    tokens = None if writer.base.manifest.tokens is None else TOKENS.encode_documents(texts)
    return writer.add(documents, chunks, ENCODER.encode_documents(texts), tokens=tokens)


def filled(path: Path, documents: Sequence[Document], tokens: MultiVectorEncoder | None = None) -> Collection:
    """A new collection that holds these documents."""
    made = Collection.create(path, encoder=ENCODER, tokens=tokens)
    with made.writer() as writer:
        put(writer, documents)
        writer.commit()
    return made


def step(generation: int) -> tuple[list[Document], list[str]]:
    """What the commit of a generation changes: documents added or replaced, and ids deleted (of the rest)."""
    rng = random.Random(generation)
    names = rng.sample([f"doc{i}" for i in range(12)], k=5)
    return [document(name, generation) for name in names[:3]], names[3:]


def histories() -> Iterator[dict[str, Document]]:
    """The documents at generation 0, 1, 2, ..."""
    state: dict[str, Document] = {}
    generation = 0
    while True:
        yield dict(state)
        generation += 1
        added, deleted = step(generation)
        for name in [*deleted, *(d.id for d in added)]:
            state.pop(name, None)
        state.update((d.id, d) for d in added)


def advance(writer: Writer) -> int:
    """Do and commit the next step of the history."""
    added, deleted = step(writer.generation + 1)
    put(writer, added)
    writer.delete(deleted)
    return writer.commit()


def check(collection: Collection, expected: dict[str, Document], rounding: float = 1e-6) -> None:
    """The collection holds and finds exactly these documents, with numbers rounded by so much."""
    assert set(collection.documents()) == set(expected)
    ids = collection.chunk_ids()
    assert len(ids) == len(collection) == sum(len(chunked(d)) for d in expected.values())
    for whole in expected.values():
        assert collection.document(whole.id) == whole
        own = collection.chunk_ids(whole.id)
        stored = collection.chunks(own)
        assert [(c.text, c.start, c.end, c.parent) for c in stored] == [
            (c.text, c.start, c.end, c.parent) for c in chunked(whole)
        ]
        vectors = ENCODER.encode_queries([c.text for c in stored])
        for chunk, hits in zip(stored, collection.search_dense(vectors, 2, threads=1), strict=True):
            assert chunk.text in [found.text for found in hits.chunks()]
        assert np.allclose(collection.vectors(own), vectors, atol=rounding)
    for name in {f"doc{i}" for i in range(12)}:
        (hits,) = collection.search_lexical([name], 100, threads=1)
        assert {c.document for c in hits.chunks()} == ({name} & set(expected))
    (everything,) = collection.search_lexical(["common"], 1000, threads=1)
    assert np.array_equal(np.sort(everything.ids), ids)
    if collection.has_tokens:
        check_maxsim(collection, ["doc3 version2 line1 common", "badorkefin"])


def check_maxsim(collection: Collection, queries: Sequence[str]) -> None:
    """The collection ranks all its chunks by MaxSim as it is written in the paper."""
    ids = collection.chunk_ids()
    asked = TOKENS.encode_queries(queries)
    expected = maxsim(asked, TOKENS.encode_documents([c.text for c in collection.chunks(ids)]))
    candidates = np.repeat(ids[None], len(queries), axis=0)
    assert np.allclose(collection.maxsim(asked, candidates, threads=1), expected, atol=0.02)
    for hits, scores in zip(collection.search_multi_vector(queries, max(len(ids), 1)), expected, strict=True):
        assert sorted(hits.ids.tolist()) == ids.tolist()
        assert np.allclose(hits.scores, scores[np.searchsorted(ids, hits.ids)], atol=0.02)
        assert (np.diff(hits.scores) <= 0).all()


def maxsim(queries: TokenVectors, documents: TokenVectors) -> NDArray[np.float64]:
    """[queries, documents]: the sum over a query's tokens of the best dot product with a token of the document."""
    return np.array(
        [
            [(queries[q].astype(np.float64) @ documents[d].T).max(axis=1).sum() for d in range(len(documents))]
            for q in range(len(queries))
        ]
    ).reshape(len(queries), len(documents))
