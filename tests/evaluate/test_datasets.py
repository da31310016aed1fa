from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from rag.errors import InputError, NotFoundError
from rag.evaluate import find


def test_a_data_set_is_read_whole(folder: Path) -> None:
    dataset = find(folder)
    assert (dataset.name, dataset.split) == ("tiny", "test")
    assert [d.id for d in dataset.documents] == ["d1", "d2", "d3"]
    assert dataset.documents[0].text == "Birds\nWings lift birds into the air."
    assert dataset.documents[0].metadata == {"title": "Birds", "year": 2001}
    assert dataset.documents[1].text == "Jet engines push aircraft."
    assert list(dataset.queries) == ["q1", "q2"], "q3 has no relevant document"
    assert dataset.qrels == {"q1": {"d1": 2, "d3": 0}, "q2": {"d2": 1}}
    assert dataset.answers == {"q1": ("wings", "the wings")}


def test_a_compressed_file_is_read_in_its_place(folder: Path) -> None:
    corpus = folder / "corpus.jsonl"
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.read_bytes()))
    corpus.unlink()
    assert len(find(folder).documents) == 3
    packed = folder / "corpus.jsonl.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"corpus.jsonl.gz:\d+: cannot be read"):
        find(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "a"}\n{"_id": 2', r"corpus.jsonl:2: not JSON"),
        ("corpus.jsonl", '{"_id": "d1"}\n', r"corpus.jsonl:1: no text under 'text'"),
        ("corpus.jsonl", "[1]\n", r"corpus.jsonl:1: no text under '_id'"),
        ("corpus.jsonl", '{"_id": "d", "text": ""}\n' * 2, r"corpus.jsonl:2: document 'd' is there twice"),
        ("queries.jsonl", '{"_id": "q", "text": ""}\n' * 2, r"queries.jsonl:2: query 'q' is there twice"),
        ("qrels/test.tsv", "header\nq1\td1\n", r"test.tsv:2: 'q1\\td1', expected"),
        ("qrels/test.tsv", "header\nq1\td1\tgood\n", r"test.tsv:2: 'q1\\td1\\tgood', expected"),
        ("qrels/test.tsv", "header\nq9\td1\t1\n", r"test.tsv:2: query 'q9' does not exist"),
        ("qrels/test.tsv", "header\nq1\td9\t1\n", r"test.tsv:2: document 'd9' does not exist"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(folder: Path, file: str, content: str, message: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(InputError, match=message):
        find(folder)


def test_bytes_that_are_no_text_are_named_with_their_file(folder: Path) -> None:
    (folder / "corpus.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match=r"corpus.jsonl:1: cannot be read"):
        find(folder)


def test_what_is_not_there_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAG_DATA", raising=False)
    with pytest.raises(NotFoundError, match="set RAG_DATA"):
        find("tiny")
    monkeypatch.setenv("RAG_DATA", str(folder.parent))
    assert find("tiny").name == "tiny"
    with pytest.raises(NotFoundError, match="did you mean 'tiny'"):
        find("tiney")
    with pytest.raises(NotFoundError, match="no split 'dev'"):
        find("tiny", "dev")


def test_a_sample_is_repeatable_and_part_of_the_whole(real: Path) -> None:
    whole = find("cranfield")
    sample = whole.sample(50)
    assert list(sample.queries) == list(whole.sample(50).queries)
    assert len(sample.queries) == len(sample.qrels) == 50
    assert sample.queries.items() <= whole.queries.items()
    assert sample.documents == whole.documents
    assert list(whole.sample(50, seed=1).queries) != list(sample.queries)
    assert whole.sample(1000) is whole
