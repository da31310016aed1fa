"""Rerank with a real, if random, cross-encoder: scores and order are those of sentence-transformers itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.errors import ModelError
from rag.operators.post_retrieval import Rerank, rerank
from rag.operators.retrieval import BM25
from rag.pipelines import Pipeline
from rag.types import Hits, Query
from tests.operators.conftest import TEXTS

pytestmark = pytest.mark.torch
QUESTIONS = ["what does renting a boat cost", "boats on the lake", "yellow light"]


def save_cross_encoder(folder: Path, labels: int = 1) -> str:
    """A BERT of two layers that has learned nothing, with a word piece vocabulary of the collection's words."""
    torch = pytest.importorskip("torch", reason="needs the extra `local`")
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = sorted({w.strip(".,").lower() for text in [*TEXTS.values(), *QUESTIONS] for w in text.split()})
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *words]))
    torch.manual_seed(labels)
    config = BertConfig(
        vocab_size=len(words) + 6,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=labels,
        initializer_range=0.4,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("sentence_transformers", reason="needs the extra `local`")
    rerank._load.cache_clear()
    yield save_cross_encoder(tmp_path_factory.mktemp("reranker") / "model")
    rerank._load.cache_clear()


def test_scores_and_order_are_those_of_the_library(folder: str, kb: Collection):
    from sentence_transformers import CrossEncoder

    hits = Hits(kb.chunk_ids(), np.linspace(1, 0.1, len(kb.chunk_ids())), store=kb)
    chunks = hits.chunks()
    peer = CrossEncoder(folder, max_length=64)
    for batch_size in (1, 32):
        operator = Rerank(model=folder, k=4, max_tokens=64, batch_size=batch_size)
        ranked = operator.run_batch([Query(q) for q in QUESTIONS], [hits] * len(QUESTIONS))
        for question, got in zip(QUESTIONS, ranked, strict=True):
            expected = np.asarray(peer.predict([(question, c.text) for c in chunks]), np.float32)
            order = np.argsort(-expected, kind="stable")
            assert got.ids.tolist() == hits.ids[order].tolist()
            assert got.scores == pytest.approx(expected[order], abs=1e-5)
            alone = operator.run(Query(question), hits)
            assert alone.ids.tolist() == got.ids.tolist()
            assert alone.scores == pytest.approx(got.scores, abs=1e-5)


def test_in_a_pipeline(folder: str, kb: Collection):
    state = Pipeline(BM25(k=4) >> Rerank(model=folder, k=2, max_tokens=64), collection=kb).run("boats on the lake")
    assert len(state.hits) == 2
    assert state.hits.scores[0] >= state.hits.scores[1]


def test_a_classifier_is_no_reranker(folder: str, kb: Collection, tmp_path: Path):
    several = save_cross_encoder(tmp_path / "classes", labels=3)
    hits = Hits(kb.chunk_ids(), np.ones(len(kb.chunk_ids())), store=kb)
    with pytest.raises(ModelError, match=r"model with one label"):
        Rerank(model=several, max_tokens=64).run(Query("boats"), hits)
    with pytest.raises(ModelError, match="cannot be loaded"):
        Rerank(model=str(tmp_path / "nowhere")).run(Query("boats"), hits)
