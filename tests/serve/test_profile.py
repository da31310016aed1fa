"""The command profile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.index import CODECS
from rag.index.profile import profile
from rag.index.recommend import recommend
from rag.operators.indexing.ingest import index_paths
from rag.serve.show import as_json
from tests.serve.conftest import RagCommand


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A collection of 60 different notes."""
    folder, rng = tmp_path / "notes", np.random.default_rng(0)
    folder.mkdir()
    for number in range(60):
        words = " ".join(f"word{w}" for w in rng.integers(0, 400, 30))
        (folder / f"{number:02}.txt").write_text(words, encoding="utf-8")
    path = tmp_path / "many"
    with Collection.create(path, encoder="hashing:128") as collection:
        index_paths(collection, folder)
    return path


def test_it_tells_what_profile_and_recommend_find(rag: RagCommand, many: Path):
    told = rag("profile", many, "--json").json
    with Collection.open(many) as collection:
        figures = profile(collection.vectors(collection.chunk_ids()), metric="cosine")
    assert told["profile"] == as_json(figures)
    assert told["recommendation"] == as_json(recommend(figures))
    assert told["profile"]["count"] == 60


def test_the_table_shows_the_figures_and_the_choice(rag: RagCommand, many: Path):
    done = rag("profile", many)
    assert done.code == 0
    for word in ("60 of 128 numbers", "local dimension", "hubness", *CODECS, "scan with codec float32"):
        assert word in done.out
    assert done.err == ""


def test_the_seed_and_the_recall_are_passed_on(rag: RagCommand, many: Path):
    assert rag("profile", many, "--seed", "1", "--json").json == rag("profile", many, "--seed", "1", "--json").json
    assert rag("profile", many, "--recall", "1.5").code == 2


def test_queries_are_encoded_and_compared(rag: RagCommand, many: Path, tmp_path: Path):
    (tmp_path / "questions.txt").write_text("word1 word2\n\n  word3 word4 word5\n", encoding="utf-8")
    told = rag("profile", many, "--queries", "questions.txt", "--json").json["profile"]["queries"]
    assert told["count"] == 2
    assert told["distance"] > 0
    assert " 2, " in rag("profile", many, "--queries", "questions.txt").out


def test_a_collection_of_several_segments_with_deletions_and_a_compressed_codec(rag: RagCommand, tmp_path: Path):
    documents = tmp_path / "documents"
    documents.mkdir()
    for number in range(30):
        (documents / f"{number}.txt").write_text(
            f"note {number} on thing{number * 7} and word{number}", encoding="utf-8"
        )
    assert rag("index", "kb", documents, "--codec", "lvq4x4").code == 0
    (documents / "3.txt").unlink()
    (documents / "30.txt").write_text("one more of them", encoding="utf-8")
    assert rag("index", "kb", documents).code == 0
    assert rag("profile", "kb", "--json").json["profile"]["count"] == 30


def test_what_is_refused(rag: RagCommand, many: Path, tmp_path: Path):
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    with Collection.create(tmp_path / "nothing", encoder="hashing:128"):
        pass
    for arguments, code, message in (
        (("nowhere",), 3, "nowhere"),
        (("nothing",), 2, "holds no vectors"),
        ((many, "--queries", "missing.txt"), 3, "missing.txt"),
        ((many, "--queries", "empty.txt"), 2, "holds no questions"),
        ((many, "--queries", "bytes.txt"), 2, "bytes.txt"),
    ):
        done = rag("profile", *arguments)
        assert done.code == code
        assert message in done.err
        assert "Traceback" not in done.err


def test_one_vector_alone_has_no_profile(rag: RagCommand, tmp_path: Path):
    (tmp_path / "one.txt").write_text("a single note", encoding="utf-8")
    assert rag("index", "single", "one.txt").code == 0
    done = rag("profile", "single")
    assert done.code == 2
    assert "at least 2" in done.err
