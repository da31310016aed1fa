"""Training a relevance filter for a collection, and the report that compares them."""

from __future__ import annotations

import json
import random
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rag.collection import Collection
from rag.errors import InputError, NotFoundError
from rag.evaluate.candidates import find_candidates, scorers_of
from rag.evaluate.judgements import LabelledQuery, read_labels, read_qrels, synthetic_queries
from rag.models.scripted import ScriptedModel
from rag.operators.post_retrieval import RelevanceFilter
from rag.operators.retrieval import Dense
from rag.pipelines import Pipeline
from rag.relevance import METHODS, CandidateLists, load_models
from rag.types import Chunk, Document
from tests.relevance.synthetic import with_relevance_models
from tests.serve.conftest import RagCommand

WORDS = "sail rope mast keel rudder anchor harbour tide wind wave flour butter sauce roux oven bread yeast salt".split()


@pytest.fixture
def kb(tmp_path: Path) -> Path:
    """80 documents of some words each; two chunks to a document."""
    rng = random.Random(0)
    path = tmp_path / "kb"
    with Collection.create(path, encoder="hashing:128") as made:
        documents = []
        for number in range(80):
            sentence = " ".join([f"topic{number}", *rng.choices(WORDS, k=6)])
            documents.append(
                Document(f"d{number}.md", f"The {sentence}. And {sentence} again.", {"title": f"topic{number}"})
            )
        chunks = [[Chunk(d.id, d.text[a:b], a, b) for a, b in spans(d.text)] for d in documents]
        with made.writer() as writer:
            texts = [c.text for own in chunks for c in own]
            writer.add(documents, chunks, made.encoder.encode_documents(texts))
            writer.commit()
    return path


def candidates(collection: Collection, asked: list[LabelledQuery], k: int) -> CandidateLists:
    return find_candidates(collection, asked, {"dense": scorers_of(collection, k)["dense"]}).lists("dense")


def spans(text: str) -> list[tuple[int, int]]:
    middle = text.index(".") + 1
    return [(0, middle), (middle + 1, len(text))]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.jsonl"
    rows = [{"query": f"what is topic{n}", "document": f"d{n}.md", "label": 1} for n in range(80)]
    rows += [{"query": f"what is topic{n}", "document": f"d{n + 1}.md", "label": 0} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_chunk_of_a_labelled_document_is_relevant(kb: Path, labels: Path):
    asked = read_labels(labels)
    assert [(q.text, q.documents) for q in asked[:2]] == [
        ("what is topic0", {"d0.md"}),
        ("what is topic1", {"d1.md"}),
    ]
    with Collection.open(kb) as collection:
        lists = candidates(collection, asked, 20)
        assert lists.scores.shape == (80, 20)
        for row in (0, 41):
            (hits,) = collection.search_dense(collection.encoder.encode_queries([asked[row].text]), 20)
            assert lists.scores[row].tolist() == pytest.approx(hits.scores.tolist(), abs=1e-6)
            documents = [chunk.document for chunk in hits.chunks()]
            assert lists.labels[row].sum() == documents.count(f"d{row}.md") > 0
        assert candidates(collection, asked, 1000).scores.shape == (80, 160)


def test_csv_and_beir_are_read_alike(tmp_path: Path):
    (tmp_path / "l.csv").write_text('query,document,label\n"a, b",d1,1\n"a, b",d2,0\nc,d2,0\n')
    (tmp_path / "q.jsonl").write_text('{"_id": "1", "text": "a, b"}\n{"_id": "2", "text": "c"}\n')
    (tmp_path / "r.tsv").write_text("query-id\tcorpus-id\tscore\n1\td1\t1\n1\td2\t0\n2\td2\t0\n")
    assert read_labels(tmp_path / "l.csv") == read_qrels(tmp_path / "q.jsonl", tmp_path / "r.tsv")
    with pytest.raises(NotFoundError, match="no file"):
        read_labels(tmp_path / "none.csv")
    for content, message in (
        ("query,document\na,b\n", "l.csv:2: no column 'label'"),
        ("query,document,label\na,b,1\na,b,yes\n", "l.csv:3: label 'yes' is no number"),
    ):
        (tmp_path / "l.csv").write_text(content)
        with pytest.raises(InputError, match=message):
            read_labels(tmp_path / "l.csv")
    (tmp_path / "r.tsv").write_text("query-id\tcorpus-id\tscore\n9\td1\t1\n")
    with pytest.raises(InputError, match=r"r.tsv:2: .*expected a query of q.jsonl"):
        read_qrels(tmp_path / "q.jsonl", tmp_path / "r.tsv")


def test_questions_are_made_of_chunks_and_found_there(kb: Path):
    with Collection.open(kb) as collection:
        made = synthetic_queries(collection, 60)
        assert made == synthetic_queries(collection, 60)
        assert len(made) == 60
        for query in made:
            (chunk,) = collection.chunks([*query.chunks])
            words = {w.strip(".") for w in (chunk.text + " " + chunk.metadata["title"]).split()}
            assert set(query.text.split()) <= words
        by_model = synthetic_queries(collection, 2, llm=ScriptedModel(["What is it?", "Which one?"]))
        assert {query.text for query in by_model} == {"What is it?", "Which one?"}


@pytest.mark.torch
def test_a_filter_is_trained_into_the_collection_and_used(rag: RagCommand, kb: Path, labels: Path):
    pytest.importorskip("torch")
    done = rag("filter", "train", kb, "--labels", labels, "-k", "20")
    assert done.code == 0
    assert "80 queries" in "".join(done.out.split("\n"))
    model = load_models(kb / "relevance" / "default.safetensors")["dense"]
    assert (set(model.methods), model.k, model.scorer) == (set(METHODS), 20, "dense")
    with Collection.open(kb) as collection:
        assert model.encoder == collection.encoder.fingerprint
        pipeline = Pipeline(
            Dense(k=20) >> RelevanceFilter(method="truncation", target_recall=0.8), collection=collection
        )
        kept = [state.hits for state in pipeline.run_batch([f"what is topic{n}" for n in range(80)])]
        right = [chunk.document == f"d{n}.md" for n, hits in enumerate(kept) for chunk in hits.chunks()]
        found = candidates(collection, read_labels(labels), 20)
        assert found.labels.mean() < sum(right) / len(right)
        assert len(right) < 0.8 * found.labels.size
        assert collection.verify().ok
    named = rag("filter", "train", kb, "--synthetic", "60", "-k", "20", "--name", "other", "--json").json
    assert named["model"].endswith("relevance/other.safetensors")
    assert named["scorers"]["dense"]["best"] in METHODS


def test_ask_uses_a_trained_filter_and_says_why(rag: RagCommand, kb: Path, tmp_path: Path):
    plain = rag("ask", kb, "what is topic7", "--json").json
    assert plain.keys() == {"question", "answer"}
    with Collection.open(kb) as collection:
        with_relevance_models(collection, ("dense", "fused", "bm25"))
    for by in ("dense", "hybrid"):
        found = rag("ask", kb, "what is topic7", "--by", by, "--json").json
        assert found["route"] in ("relevant", "no_relevant")
        assert 0 <= found["filtering"]["answerable"] <= 1
        assert found["answer"]["found"] <= (found["route"] == "relevant")
        done = rag("ask", kb, "what is topic7", "--by", by)
        assert f"{found['route']}: " in done.out
    assert rag("ask", kb, "what is topic7", "--unfiltered", "--json").json == plain
    (kb / "relevance" / "default.safetensors").write_bytes(b"damaged")
    assert "no relevance model, or damaged" in rag("ask", kb, "what is topic7").err


def test_a_filter_of_made_questions_doubts_but_does_not_refuse(rag: RagCommand, kb: Path):
    assert rag("filter", "train", kb, "--synthetic", "80", "-k", "20", "--scorer", "bm25").code == 0
    assert load_models(kb / "relevance" / "default.safetensors")["bm25"].about["synthetic"] is True
    found = rag("ask", kb, "what is the topic7 of flour", "--by", "bm25", "--json").json
    plain = rag("ask", kb, "what is the topic7 of flour", "--by", "bm25", "--unfiltered", "--json").json
    assert found["filtering"]["n_kept"] == found["filtering"]["n_in"] > 0
    assert found["answer"] == plain["answer"]


def test_a_pipeline_can_be_calibrated_by_name(rag: RagCommand, kb: Path, labels: Path, tmp_path: Path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine\nflow:\n  - dense: {k: 30}\n  - mmr: {k: 20}\n")
    done = rag("filter", "train", kb, "--labels", labels, "-k", "20", "--scorer", "dense", "--scorer", f"mmr={mine}")
    assert done.code == 0
    models = load_models(kb / "relevance" / "default.safetensors")
    assert set(models) == {"dense", "mmr"}
    assert models["mmr"].k == 20
    wrong = rag("filter", "train", kb, "--labels", labels, "--scorer", "dens")
    assert (wrong.code, "'dens' is none of dense, bm25" in wrong.err) == (2, True)


@pytest.mark.torch
def test_the_report_compares_all_methods(rag: RagCommand, kb: Path, labels: Path, tmp_path: Path):
    pytest.importorskip("torch")
    page = tmp_path / "report.html"
    done = rag("filter", "report", kb, "--labels", labels, "-k", "20", "--html", page)
    assert done.code == 0
    for method in METHODS:
        assert f"\n{method} " in done.out
    assert "is recommended" in done.out
    assert max(map(len, done.out.splitlines())) <= 120
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 6
    assert "http" not in text
    Balanced().feed(text)
    found = rag("filter", "report", kb, "--labels", labels, "-k", "20", "--json").json
    assert [f["method"] for f in found["figures"]] == list(METHODS)
    best = max(f["pr_auc"] for f in found["figures"])
    by_name = {f["method"]: f["pr_auc"] for f in found["figures"]}
    assert by_name[found["recommended"]] >= 0.98 * best
    assert not (kb / "relevance").exists()


class Balanced(HTMLParser):
    """Fails at an end tag that closes something else than was opened last."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_what_cannot_be_trained_is_told(rag: RagCommand, kb: Path, labels: Path, tmp_path: Path):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(labels.read_text().splitlines(keepends=True)[:5]))
    done = rag("filter", "train", kb, "--labels", few)
    assert (done.code, "5 of 5 queries have a relevant candidate, a relevance filter needs 20" in done.err) == (2, True)
    strange = tmp_path / "strange.csv"
    strange.write_text("query,document,label\na,nowhere.md,1\n")
    done = rag("filter", "train", kb, "--labels", strange)
    assert (done.code, "none of the 1 labelled documents is in" in done.err) == (2, True)
    assert rag("filter", "train", kb, "--queries", few).code == 2
    assert rag("filter", "train", kb, "--labels", labels, "--name", "../../out").code == 2
    assert rag("filter", "train", tmp_path / "nothing").code == 3
    assert not (kb / "relevance").exists()
    with Collection.create(tmp_path / "ip", encoder="hashing:16", metric="ip"):
        pass
    done = rag("filter", "report", tmp_path / "ip", "--labels", labels)
    assert (done.code, "scores by 'ip'" in done.err) == (2, True)
    with Collection.create(tmp_path / "empty", encoder="hashing:16"):
        pass
    assert "holds nothing to search in" in rag("filter", "train", tmp_path / "empty").err


def test_without_torch_the_rest_is_trained(rag: RagCommand, kb: Path, labels: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = rag("filter", "train", kb, "--labels", labels, "-k", "20", "--json")
    assert done.code == 0
    assert "without torch no adapters are trained" in done.err
    dense = done.json["scorers"]["dense"]
    assert dense["best"] in METHODS
    assert not any("adapter" in name for name in dense["pr_auc"])
