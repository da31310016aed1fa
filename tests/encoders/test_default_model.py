"""The default model: against sentence-transformers where that is installed, and on its own."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

from rag.encoders import load
from rag.errors import NotFoundError
from rag.usercache import sha256


@pytest.fixture(scope="module")
def minilm():
    try:
        return load()
    except NotFoundError as error:
        pytest.skip(str(error))


def texts_of_scifact(data) -> list[str]:
    with gzip.open(data / "scifact" / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        documents = [json.loads(line) for _, line in zip(range(40), file, strict=False)]
    with (data / "scifact" / "queries.jsonl").open(encoding="utf-8") as file:
        queries = [json.loads(line)["text"] for _, line in zip(range(40), file, strict=False)]
    return queries + [f"{d['title']} {d['text']}" for d in documents]


EDGES = ["", " ", "a", "Ünïcödé, 日本語のテキスト, العربية, 🎉", "x" * 5000, "word " * 2000, "\x00\ufffd\u200b tab\t\n"]


def test_it_is_the_model_it_should_be(minilm):
    path = minilm.checkpoint.root / "model.safetensors"
    assert sha256(path) == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert (minilm.dim, minilm.max_tokens) == (384, 256)


def test_it_knows_what_texts_mean(minilm):
    question, answer, other = minilm.encode_queries(
        ["How do plants make sugar?", "Photosynthesis turns light into glucose.", "The court dismissed the appeal."]
    )
    assert question @ answer > 0.5 > 0.2 > question @ other


def test_it_loads_no_torch():
    code = "import sys; from rag.encoders import load; load().encode_queries(['a']); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "NotFoundError" in out.stderr:
        pytest.skip("the default model is not installed")
    assert out.stdout.strip() == "False"


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_vectors_are_those_of_sentence_transformers(minilm, data):
    pytest.importorskip("sentence_transformers", reason="compares with sentence-transformers")
    peer = load("st:all-MiniLM-L6-v2")
    texts = texts_of_scifact(data) + EDGES
    ours, theirs = minilm.encode_documents(texts), peer.encode_documents(texts)
    assert (ours * theirs).sum(1).min() >= 0.9999
    assert np.abs(ours - theirs).max() < 1e-5
    assert minilm.count_tokens(texts) == peer.count_tokens(texts)
    assert minilm.fingerprint == peer.fingerprint
    assert (minilm.dim, minilm.max_tokens) == (peer.dim, peer.max_tokens)
