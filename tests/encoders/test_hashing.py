import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.encoders import Encoder
from rag.encoders.hashing import HashingEncoder
from rag.errors import ConfigError


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=5), st.integers(1, 64))
@settings(deadline=None)
def test_every_text_has_a_unit_vector_of_its_own(texts, dim):
    encoder = HashingEncoder(dim)
    vectors = encoder.encode_documents(texts)
    assert (vectors.shape, vectors.dtype) == ((len(texts), dim), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    for text, vector in zip(texts, vectors, strict=True):
        assert (encoder.encode_queries([text])[0] == vector).all()


def test_shared_words_and_spelling_make_texts_near():
    encoder = HashingEncoder()
    query, same, kin, other = encoder.encode_queries(
        ["the vector index", "The index, the vector!", "vectors indexed", "baking sourdough bread"]
    )
    assert query @ same > 0.85
    assert query @ same > query @ kin > query @ other


def test_another_process_gives_the_same_vectors():
    code = "from rag.encoders import load; print(load('hashing:8').encode_queries(['a cab']).tobytes().hex())"
    out = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.strip()
        for _ in range(2)
    }
    assert out == {HashingEncoder(8).encode_queries(["a cab"]).tobytes().hex()}


def test_it_is_an_encoder_that_counts_words_and_reports_progress():
    encoder = HashingEncoder(8)
    assert isinstance(encoder, Encoder)
    assert encoder.count_tokens(["one two", ""]) == [2, 0]
    done: list[int] = []
    encoder.encode_documents(["a", "b"], progress=done.append)
    assert sum(done) == 2
    assert encoder.fingerprint != HashingEncoder(9).fingerprint


def test_no_dimension_is_refused():
    with pytest.raises(ConfigError, match="at least one dimension"):
        HashingEncoder(0)
