"""Which correction for hubs is chosen: one that helps, and none where none does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.errors import InputError
from rag.evaluate.hubness import HubStudy, study_hubs
from rag.evaluate.judgements import LabelledQuery
from rag.types import Chunk, Document

DIM = 64


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


class Known:
    """Questions and items of which the vectors are known: two questions beside each item, shifted as all questions are,
    and items that lean towards that shift, some more than others. With `lean` 0 questions are not shifted."""

    name, dim, fingerprint, max_tokens = f"hashing:{DIM}", DIM, "known", 512

    def __init__(self, lean: float, beside: float = 0.9, items: int = 300) -> None:
        rng = np.random.default_rng(3)
        shift, base = unit(rng.normal(size=(1, DIM))), unit(rng.normal(size=(items, DIM)))
        self.items = unit(base + np.abs(rng.normal(0, lean, size=(items, 1))) * shift)
        noise = unit(rng.normal(size=(2, items, DIM)))
        self.questions = unit(0.8 * base + (0.8 if lean else 0) * shift + beside * noise).reshape(-1, DIM)

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        return self.questions[[int(text) for text in texts]]

    def encode_documents(self, texts: list[str]) -> np.ndarray:
        return self.items[[int(text) for text in texts]]


def studied(
    path: Path,
    lean: float,
    *,
    noise: float = 0.9,
    labelled: bool = True,
    k: int = 100,
    count: int = 600,
    made: bool = False,
) -> HubStudy:
    encoder = Known(lean, noise)
    documents = [Document(f"d{i}", str(i)) for i in range(len(encoder.items))]
    with Collection.create(path, encoder=encoder) as kb:  # type: ignore[arg-type]
        with kb.writer() as writer:
            writer.add(documents, [[Chunk(d.id, d.text, 0, len(d.text))] for d in documents], encoder.items)
            writer.commit()
        kb.refresh()
        questions = [
            LabelledQuery(str(i), frozenset([f"d{i % len(documents)}"] if labelled else [])) for i in range(count)
        ]
        return study_hubs(kb, questions, k, made=made)


def test_what_helps_is_chosen_and_kept(tmp_path: Path):
    found = studied(tmp_path / "kb", 0.5)
    none, best = found.trials[0], found.best
    assert (none.kind, found.queries, best.p < 0.05) == ("none", 600, True)
    assert best.ndcg is not None
    assert none.ndcg is not None
    assert best.ndcg == max(trial.ndcg for trial in found.trials if trial.ndcg) > none.ndcg + 0.03
    assert best.report.skewness < none.report.skewness
    np.testing.assert_array_equal(none.places, none.report.places)
    assert best.places.sum() < none.places.sum()
    model = found.model("fingerprint", seed=4)
    assert (model.best, model.encoder, model.seed) == (best.kind, "fingerprint", 4)
    assert model.queries.shape == (600, DIM)
    assert model.about["ndcg"]["none"] == pytest.approx(none.ndcg, abs=1e-4)
    for kind, beta in model.betas.items():
        own = {trial.beta: trial.ndcg for trial in found.trials if trial.kind == kind}
        assert own[beta] == max(own.values())


def test_none_is_chosen_where_no_correction_helps(tmp_path: Path):
    found = studied(tmp_path / "kb", 0.0)
    assert found.best is found.trials[0]
    assert found.model("f").best == "none"


def test_what_helps_only_against_known_answers_is_not_chosen(tmp_path: Path):
    """One question for each item: what answers a known one never answers one that is asked."""
    once = studied(tmp_path / "once", 0.0, count=300, noise=1.6)
    (fooled,) = (trial for trial in once.trials if trial.name == "inverted_softmax 20")
    assert fooled.ndcg is not None
    assert once.trials[0].ndcg is not None
    assert fooled.ndcg > once.trials[0].ndcg + 0.02
    assert fooled.apart is not None
    assert fooled.apart < 0.01
    assert once.best is once.trials[0]


def test_without_labels_of_real_questions_nothing_is_chosen(tmp_path: Path):
    made = studied(tmp_path / "made", 0.5, made=True)
    assert max(made.trials, key=lambda trial: trial.ndcg or 0) is not made.trials[0] is made.best
    found = studied(tmp_path / "kb", 0.5, labelled=False)
    assert found.labelled == 0
    assert {trial.ndcg for trial in found.trials} == {None}
    assert (found.best.kind, found.model("f").about) == ("none", {"queries": 600, "labelled": 0, "made": False})
    with pytest.raises(InputError, match="19 questions, a bank against hubs needs 20"):
        studied(tmp_path / "few", 0.5, count=19)


def test_the_figures_are_those_of_the_candidates(tmp_path: Path):
    """nDCG@10 and first hits under "none", by definition, with one relevant document for a question."""
    found = studied(tmp_path / "kb", 0.5, k=20)
    known = Known(0.5)
    cosines = known.questions @ known.items.T
    own = cosines[np.arange(600), np.arange(600) % 300]
    ranks = (cosines > own[:, None]).sum(1)
    had = ranks < 20
    assert found.labelled == had.sum()
    gains = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0)[had]
    assert found.trials[0].ndcg == pytest.approx(gains.mean(), abs=2e-3)  # vectors are kept rounded
    assert found.trials[0].first == pytest.approx((ranks == 0)[had].mean(), abs=5e-3)
