"""Fixed dimensional encodings as single vectors: their geometry, names, and a collection that is searched by them."""

from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.encoders import TokenVectors, encode_both, encode_both_queries, load, load_multi_vector
from rag.encoders.multivector import FixedDimensionalEncoder
from rag.errors import ConfigError, RagError
from rag.index.multivector import FixedDimensionalEncoding
from rag.types import Chunk, Document

TEXTS = [
    "the tide comes in twice a day",
    "granite is older than the hills",
    "",
    "letters are carried by ship and by mule",
    "早起きは三文の徳",
    "tides are led by the moon, and by the sun a little",
]


@pytest.fixture(scope="module")
def encoder() -> FixedDimensionalEncoder:
    tokens = load_multi_vector("hashing:64")
    return FixedDimensionalEncoder(tokens, FixedDimensionalEncoding(64, 3, 8, 10))


def test_cosines_rank_as_inner_products_of_encodings(encoder: FixedDimensionalEncoder) -> None:
    documents, tokens = encoder.encode_documents_both(TEXTS)
    queries, asked = encoder.encode_queries_both(["when does the tide come in", "ship"])
    assert documents.shape == (len(TEXTS), encoder.dim) == (len(TEXTS), 10 * 8 * 8 + 1)
    for vectors in (documents, queries):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    some = np.flatnonzero(np.diff(tokens.offsets))
    offsets = np.append(tokens.offsets[some], len(tokens.vectors))
    products = encoder.encoding.encode_queries(asked.vectors, asked.offsets) @ (
        encoder.encoding.encode_documents(tokens.vectors, offsets).T
    )
    cosines = queries @ documents[some].T
    np.testing.assert_allclose(cosines / cosines.max(1)[:, None], products / products.max(1)[:, None], atol=1e-5)


def test_encodings_longer_than_there_is_room_for_are_cut_to_unit_length(encoder: FixedDimensionalEncoder) -> None:
    class Alike:
        """Every text is one direction again and again, which all projections may make long."""

        name, dim, max_tokens, fingerprint = "alike", 64, 8, "alike"

        def encode_documents(self, texts: list[str], progress: object = None) -> TokenVectors:
            signs = np.sign(np.random.default_rng(0).normal(size=64)).astype(np.float32) / 8
            return TokenVectors(signs[None], np.array([0, 1]), np.zeros((1, 2), np.int32))

    wide = FixedDimensionalEncoder(Alike(), FixedDimensionalEncoding(64, 0, 1, 1))  # type: ignore[arg-type]
    wide._longest = 1e-3
    vector = wide.encode_documents(["x"])
    np.testing.assert_allclose(np.linalg.norm(vector, axis=1), 1, atol=1e-6)
    assert vector[0, -1] == 0


def test_texts_without_tokens_have_a_vector(encoder: FixedDimensionalEncoder) -> None:
    for encode in (encoder.encode_documents, encoder.encode_queries):
        assert encode(["", "  "])[:, -1].tolist() == [1, 1]
        assert encode([]).shape == (0, encoder.dim)


def test_names_and_fingerprints() -> None:
    encoder = load("fde:hashing:32")
    assert encoder.name == "fde:hashing:32"
    assert encoder.dim == 20 * 16 * 16 + 1
    assert encoder.fingerprint == load(encoder.name).fingerprint
    assert encoder.fingerprint != load("fde:hashing:64").fingerprint
    tokens = load_multi_vector("hashing:32")
    other = FixedDimensionalEncoder(tokens, FixedDimensionalEncoding(32, 4, 8, 20))
    assert other.fingerprint != encoder.fingerprint
    with pytest.raises(ConfigError, match=r"tokens of 16 numbers, 'hashing:32' gives 32"):
        FixedDimensionalEncoder(tokens, FixedDimensionalEncoding(16))
    for spec in ("fde:openai:text-embedding-3-small", "fde:no such encoder"):
        with pytest.raises(RagError):
            load(spec)


def test_tokens_are_encoded_once_for_both(encoder: FixedDimensionalEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    encode = encoder.tokens.encode_documents
    monkeypatch.setattr(
        encoder.tokens, "encode_documents", lambda texts, **rest: (calls.append(len(texts)), encode(texts, **rest))[1]
    )
    vectors, tokens = encode_both(encoder, load_multi_vector("hashing:64"), TEXTS)
    assert calls == [len(TEXTS)]
    assert tokens is not None
    np.testing.assert_array_equal(vectors, encoder.encode_documents(TEXTS))
    asked, _ = encode_both_queries(encoder, load_multi_vector("hashing:64"), TEXTS)
    np.testing.assert_array_equal(asked, encoder.encode_queries(TEXTS))
    other, _ = encode_both(encoder, load_multi_vector("hashing:32"), TEXTS)
    np.testing.assert_array_equal(other, vectors)


def test_a_collection_by_encodings_and_their_tokens(tmp_path: Path) -> None:
    encoder, tokens = load("fde:hashing:64"), load_multi_vector("hashing:64")
    words = [f"word{n}" for n in range(60)]
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(words, 8)) for _ in range(300)]
    made = Collection.create(tmp_path / "kb", encoder=encoder, tokens=tokens)
    with made, made.writer() as writer:
        vectors, many = encode_both(encoder, tokens, texts)
        documents = [Document(f"doc{number}", text) for number, text in enumerate(texts)]
        chunks = [[Chunk(one.id, one.text, 0, len(one.text))] for one in documents]
        writer.add(documents, chunks, vectors, tokens=many)
        writer.commit()
    with Collection.open(tmp_path / "kb") as collection:
        assert collection.encoder.fingerprint == encoder.fingerprint
        asked = texts[::30]
        found = collection.search_multi_vector(asked, 5, candidates=40)
        every = collection.search_multi_vector(asked, 5, recall=1)
        assert [hits.ids[0] for hits in found] == [hits.ids[0] for hits in every]
        same = [len(np.intersect1d(a.ids, b.ids)) for a, b in zip(found, every, strict=True)]
        assert np.mean(same) > 4
