"""Documents for the tests of this folder, and a history of commits of which every state is known."""

from __future__ import annotations

import errno
import json
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.collection import Collection, Writer
from rag.collection.manifest import _crc
from rag.encoders import MultiVectorEncoder, TokenVectors, load, load_multi_vector
from rag.types import Chunk, Document

ENCODER = load("hashing:16")
TOKENS = load_multi_vector("hashing:16")
POOLED = load_multi_vector("hashing:16", pool_factor=2)
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
    kept = writer.base.manifest.tokens
    tokens = None if kept is None else (TOKENS if kept.pool_factor == 1 else POOLED).encode_documents(texts)
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
    ids, encoder = collection.chunk_ids(), collection.token_encoder
    asked = encoder.encode_queries(queries)
    expected = maxsim(asked, encoder.encode_documents([c.text for c in collection.chunks(ids)]))
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


def segments_of(collection: Collection) -> list[bool]:
    """Of each segment, whether it has token vectors."""
    return [one.token_vectors is not None for one in collection.info().indexes]


class Counting:
    """The encoder of tokens of the tests, which counts the texts it encodes, and may be stopped."""

    def __init__(self, most: int = sys.maxsize) -> None:
        self.encoded, self.most = 0, most
        self.name, self.dim = TOKENS.name, TOKENS.dim
        self.max_tokens, self.fingerprint, self.pool_factor = TOKENS.max_tokens, TOKENS.fingerprint, TOKENS.pool_factor
        self.encode_queries, self.count_tokens = TOKENS.encode_queries, TOKENS.count_tokens

    def encode_documents(
        self, texts: Sequence[str], *, pooled: bool = True, progress: Callable[[int], None] | None = None
    ) -> TokenVectors:
        if self.encoded + len(texts) > self.most:
            raise KeyboardInterrupt
        self.encoded += len(texts)
        return TOKENS.encode_documents(texts, progress=progress)


# What older releases have left, full disks, and readers beside a writer


def edit_manifest(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the content of a collection's manifest, as if it had been written so."""
    content = json.loads((path / "manifest.json").read_text())
    del content["crc32c"]
    change(content)
    (path / "manifest.json").write_text(json.dumps({"crc32c": _crc(content), **content}))


def downgrade(path: Path, version: int) -> None:
    """Write the manifest as format 1 or 2 had it."""

    def older(content: dict[str, Any]) -> None:
        for part in (content, *content["segments"]):
            del part["tokens"]
        content |= {"format": version} | ({"codec": "float32"} if version == 1 else {})

    edit_manifest(path, older)


@contextmanager
def full_disk(call: int) -> Iterator[list[str]]:
    """Inside the block, calls that write to disk fail for lack of space from this one on; which calls there were."""
    calls: list[str] = []

    def limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any) -> Any:
            calls.append(name)
            if len(calls) >= call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args)

        return write

    with mock.patch.multiple(os, **{name: limited(name, getattr(os, name)) for name in ("fsync", "replace")}):
        yield calls


@contextmanager
def readers_beside(collection: Collection, asked: ArrayLike, least: float = 1.0) -> Iterator[None]:
    """While the block runs, one reader keeps its generation and finds what was found before; another goes on to every
    newer one, and finds at least this share of it."""
    true = [hits.ids.tolist() for hits in collection.search_dense(asked, 10)]
    stop, searches, problems = threading.Event(), [0, 0], []

    def read(refresh: bool) -> None:
        with Collection.open(collection.path, encoder=collection.encoder) as reader:
            while not stop.is_set() or not searches[refresh]:
                found = [hits.ids.tolist() for hits in reader.search_dense(asked, 10)]
                same = sum(len({*one} & {*other}) for one, other in zip(found, true, strict=True))
                if found != true if not refresh else same < least * sum(map(len, true)):
                    problems.append((reader.generation, same))
                searches[refresh] += 1
                if refresh:
                    reader.refresh()

    readers = [threading.Thread(target=read, args=(refresh,)) for refresh in (False, True)]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert all(searches)
    assert not problems
