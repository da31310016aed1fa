from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rag.encoders import TokenVectors, load
from rag.encoders.multivector import HashingTokenEncoder
from rag.errors import InputError, NotFoundError
from rag.evaluate import Dataset, collection_of, evaluate, find
from rag.evaluate.runner import rankings
from rag.types import Answer, Chunk, Hits, Query


class Store:
    """Chunk i belongs to document d{i // 10}."""

    def chunks(self, ids: np.ndarray) -> list[Chunk]:
        return [Chunk(f"d{i // 10}", "", 0, 0, id=i) for i in ids.tolist()]


STORE = Store()


def hits(*ids: int) -> Hits:
    return Hits(ids, -np.arange(len(ids), dtype=float), store=STORE)


def test_a_document_stands_at_its_best_chunk() -> None:
    assert rankings([hits(21, 10, 22, 35, 11), hits(), hits(40)]) == [["d2", "d1", "d3"], [], ["d4"]]
    with pytest.raises(InputError, match="without a store"):
        rankings([Hits([1], [1.0])])


def test_runs_are_judged_and_timed(folder: Path) -> None:
    dataset = find(folder)
    now = [0.0]
    asked: list[list[str]] = []

    def good(queries: Sequence[Query]) -> list[Hits]:
        asked.append([query.text for query in queries])
        now[0] += 0.25
        return [hits(10, 30) if "birds" in query.text else hits(30, 20) for query in queries]

    def reader(queries: Sequence[Query]) -> list[Answer]:
        return [Answer("Wings") for _ in queries]

    report = evaluate(
        {"good": good, "none": lambda queries: [hits() for _ in queries], "reader": reader},
        dataset,
        ["nDCG@10", "RR", "EM"],
        batch=1,
        clock=lambda: now[0],
    )
    assert asked == [["what lifts birds"], ["what pushes aircraft"]]
    result = report.runs["good"]
    assert result.values["RR"] == {"q1": 1.0, "q2": 0.5}
    assert result.mean("RR") == 0.75
    assert result.latencies == {"q1": 0.25, "q2": 0.25}
    assert result.queries_per_second == 4
    assert report.runs["none"].mean("nDCG@10") == 0
    assert report.runs["reader"].values == {"EM": {"q1": 1.0}}, "only q1 has accepted answers"

    content = json.loads(report.to_json())
    assert content["runs"]["good"]["means"]["RR"] == 0.75
    row = {"run": "good", "query": "q2", "nDCG@10": pytest.approx(1 / np.log2(3)), "RR": 0.5, "seconds": 0.25}
    assert row in content["per_query"]
    with pytest.raises(NotFoundError, match="did you mean 'good'"):
        report.table("goood")


def test_a_significant_difference_is_marked() -> None:
    queries = {f"q{i:02}": Query(f"q{i:02}") for i in range(40)}
    dataset = Dataset("made", "test", (), queries, {q: {"d1": 1} for q in queries}, {})
    report = evaluate(
        {
            "base": lambda batch: [hits(20, 10) for _ in batch],
            "better": lambda batch: [hits(10) for _ in batch],
            "same": lambda batch: [hits(20, 10) if q.text != "q00" else hits(10) for q in batch],
        },
        dataset,
        ["RR", "Recall@100"],
    )
    found = {(c.run, c.measure): c for c in report.compare()}
    assert found["better", "RR"].significant
    assert found["better", "RR"].difference == pytest.approx(0.5)
    assert found["better", "RR"].corrected == pytest.approx(4 * found["better", "RR"].p)
    assert not found["same", "RR"].significant
    assert found["same", "Recall@100"].p == 1.0
    console = Console(width=120, record=True, quiet=True)
    with console.capture():
        console.print(report.table())
    text = str(list(report.table().columns[1].cells))
    assert text.count("▲") == 1
    assert "▼" in str(list(report.table("better").columns[1].cells))


@pytest.mark.parametrize(
    ("run", "measures", "message"),
    [
        (lambda q: [hits()], ["RR"], "returned 1 results for 2 queries"),
        (lambda q: ["text"] * len(q), ["RR"], "returned str, expected Hits or Answer"),
        (lambda q: [hits()] * len(q), ["EM"], "returned hits, and none of the measures EM"),
        (lambda q: [Answer("")] * len(q), ["RR"], "returned answers, and none of the measures RR"),
        (lambda q: [hits()] * len(q), ["RRR"], "no measure 'RRR'"),
    ],
)
def test_what_cannot_be_judged_is_refused(folder: Path, run, measures, message) -> None:
    with pytest.raises(InputError, match=message):
        evaluate({"run": run}, find(folder), measures)
    with pytest.raises(InputError, match="no run"):
        evaluate({}, find(folder))


def test_a_collection_is_made_once(folder: Path, tmp_path: Path) -> None:
    dataset = find(folder)
    encoder = load("hashing")
    with collection_of(dataset, encoder=encoder, cache=tmp_path / "cache") as first:
        assert len(first) == 3
        assert first.document("d1").metadata["year"] == 2001
        report = evaluate({"bm25": lambda q: first.search_lexical([x.text for x in q], 10)}, dataset, ["RR"])
        assert report.runs["bm25"].mean("RR") == 1.0
        generation = first.generation
    with collection_of(dataset, encoder=encoder, cache=tmp_path / "cache") as second:
        assert second.generation == generation, "nothing was added again"
    with collection_of(dataset, encoder=load("hashing:64"), cache=tmp_path / "cache") as other:
        assert other.dim == 64
        assert other.path != second.path


def test_a_collection_that_was_cut_off_is_completed(folder: Path, tmp_path: Path) -> None:
    dataset = find(folder)
    with collection_of(dataset, encoder=load("hashing"), cache=tmp_path) as first, first.writer() as writer:
        writer.delete(["d2"])
        writer.commit()
    with collection_of(dataset, encoder=load("hashing"), cache=tmp_path) as second:
        assert sorted(second.documents()) == ["d1", "d2", "d3"]


def test_tokens_are_kept_beside_the_vectors_and_completed_like_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.evaluate.build.COMMIT", 2)
    monkeypatch.setattr("rag.evaluate.build.BLOCK", 1)
    dataset, encoder = find(folder), load("hashing")

    class Interrupted(HashingTokenEncoder):
        def encode_documents_both(self, texts: Sequence[str], **more: Any) -> tuple[np.ndarray, TokenVectors]:
            if "Keels" in texts[0]:
                raise KeyboardInterrupt
            return super().encode_documents_both(texts, **more)

    with pytest.raises(KeyboardInterrupt):
        collection_of(dataset, encoder=encoder, tokens=Interrupted(encoder), cache=tmp_path)
    with collection_of(dataset, encoder=encoder, tokens="hashing", cache=tmp_path) as whole:
        assert whole.generation == 2, "the first two documents were there"
        assert whole.has_tokens
        (hits,) = whole.search_multi_vector(["keels upright"], 1)
        assert hits.chunks()[0].document == "d3"
    with collection_of(dataset, encoder=encoder, cache=tmp_path) as plain:
        assert plain.path != whole.path
        assert not plain.has_tokens


BASELINES = {"scifact": (0.676, 0.913), "cranfield": (0.343, 0.722), "squad_train_sample": (0.795, 0.981)}


@pytest.mark.parametrize("name", BASELINES)
def test_bm25_reproduces_the_baselines(real: Path, name: str) -> None:
    from rag.index.lexical import LexicalIndex, search_lexical

    dataset = find(name).sample(2000)
    index = LexicalIndex.build(np.arange(len(dataset.documents)), [d.text for d in dataset.documents])

    class Documents:
        def chunks(self, ids: np.ndarray) -> list[Chunk]:
            return [Chunk(dataset.documents[i].id, "", 0, 0, id=i) for i in ids.tolist()]

    def bm25(queries: Sequence[Query]) -> list[Hits]:
        matches = search_lexical([index], [query.text for query in queries], 100)
        return [Hits(i[i >= 0], s[i >= 0], store=Documents()) for i, s in zip(*matches, strict=True)]

    result = evaluate({"bm25": bm25}, dataset).runs["bm25"]
    assert (result.mean("nDCG@10"), result.mean("Recall@100")) == pytest.approx(BASELINES[name], abs=0.002)
