"""The commands against hubs: what they keep in a collection, and what they show of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag.collection import Collection
from rag.evaluate.hubness import VARIANTS
from rag.index.hubness_file import load_hubness
from rag.operators.post_retrieval import HubnessNorm
from rag.operators.retrieval import Dense
from rag.pipelines import Pipeline
from rag.types import Chunk, Document
from tests.serve.conftest import RagCommand


@pytest.fixture
def kb(tmp_path: Path) -> Path:
    path = tmp_path / "kb"
    with Collection.create(path, encoder="hashing:128") as made:
        documents = [Document(f"d{n}.md", f"The topic{n} is about sail and thing{n % 7}.") for n in range(60)]
        with made.writer() as writer:
            chunks = [[Chunk(d.id, d.text, 0, len(d.text))] for d in documents]
            writer.add(documents, chunks, made.encoder.encode_documents([d.text for d in documents]))
            writer.commit()
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.jsonl"
    rows = [{"query": f"what is topic{n} {w}", "document": f"d{n}.md", "label": 1} for n in range(60) for w in "ab"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_bank_is_kept_and_used(rag: RagCommand, kb: Path, labels: Path):
    told = rag("hubs", "train", kb, "--labels", labels, "--json").json
    assert told["model"].endswith("hubness/default.safetensors")
    assert (told["queries"], set(told["ndcg"])) == (120, {f"{k} {b:g}" if b else k for k, b in VARIANTS})
    model = load_hubness(kb / "hubness" / "default.safetensors")
    assert told["best"].startswith(model.best)
    with Collection.open(kb) as collection:
        assert model.encoder == collection.encoder.fingerprint
        pipeline = Pipeline(Dense(k=20) >> HubnessNorm(), collection=collection)
        assert len(pipeline.run("what is topic5").hits.columns["score_raw"]) == 20
        assert collection.verify().ok
    done = rag("hubs", "train", kb, "--synthetic", "40", "--name", "other", "--most", "30")
    assert (done.code, "other.safetensors: 30 questions" in " ".join(done.out.split())) == (0, True)
    assert "questions made of the chunks may harm real ones" in " ".join(done.out.split())
    made = load_hubness(kb / "hubness" / "other.safetensors")
    assert (len(made.queries), made.best, made.about["made"]) == (30, "none", True)


def test_questions_without_labels_make_a_bank_that_is_not_tested(rag: RagCommand, kb: Path, tmp_path: Path):
    queries = tmp_path / "queries.jsonl"
    queries.write_text("".join(json.dumps({"_id": f"{n}", "text": f"is topic{n} a sail"}) + "\n" for n in range(30)))
    done = rag("hubs", "train", kb, "--queries", queries)
    assert (done.code, "none is chosen, since without labels" in " ".join(done.out.split())) == (0, True)


def test_the_report_shows_hubs_before_and_after(rag: RagCommand, kb: Path, labels: Path):
    done = rag("hubs", "report", kb, "--labels", labels, "--hubs", "3")
    assert done.code == 0
    for kind, beta in VARIANTS:
        assert f"{kind} {beta:g}" if beta else kind in done.out
    assert "120 questions, 120 with a labelled chunk" in done.out
    assert done.out.count("The topic") == 3
    assert max(map(len, done.out.splitlines())) <= 120
    found = rag("hubs", "report", kb, "--labels", labels, "--json").json
    assert (found["trials"][0]["name"], found["queries"]) == ("none", 120)
    assert found["trials"][0]["places"] == found["trials"][0]["report"]["places"]
    assert len(found["hubs"]) == 5
    assert not (kb / "hubness").exists()


def test_what_cannot_be_done_is_told(rag: RagCommand, kb: Path, labels: Path, tmp_path: Path):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(labels.read_text().splitlines(keepends=True)[:5]))
    done = rag("hubs", "train", kb, "--labels", few)
    assert (done.code, "5 questions, a bank against hubs needs 20" in done.err) == (2, True)
    assert rag("hubs", "train", kb, "--labels", labels, "--queries", few).code == 2
    assert rag("hubs", "train", kb, "--qrels", few).code == 2
    assert rag("hubs", "train", kb, "--labels", labels, "--name", "../../out").code == 2
    assert rag("hubs", "report", tmp_path / "nothing").code == 3
    with Collection.create(tmp_path / "ip", encoder="hashing:16", metric="ip"):
        pass
    done = rag("hubs", "report", tmp_path / "ip", "--labels", labels)
    assert (done.code, "scores by 'ip'" in done.err) == (2, True)
    assert not (kb / "hubness").exists()
