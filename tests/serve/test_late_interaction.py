"""Late interaction on the command line: index, info, search, upgrade, evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.serve.conftest import RagCommand

PRESETS = ("muvera", "dense_maxsim", "bm25_maxsim", "hybrid_maxsim")


def test_late_interaction_from_indexing_to_explained_hits(rag: RagCommand, documents: Path, tmp_path: Path):
    kb = tmp_path / "late"
    assert rag("index", kb, documents, "--multi-vector").code == 0
    assert "of hashing:128, 128 dimensions, residual2" in rag("info", kb).out
    (documents / "sailing.md").write_text("# Sailing\n\nA halyard hoists a sail.\n", encoding="utf-8")
    assert rag("index", kb, documents, "--json").json["report"]["changed"] == 1
    (first, *_) = rag("search", kb, "halyard sailing", "--json").json["hits"]
    assert first["document"] == "sailing.md"
    assert first["score"] == pytest.approx(2, abs=0.01), "both words are there, in the text and in the title"
    shown = rag("search", kb, "halyard sailing zebra", "-k", "1", "--explain")
    assert shown.code == 0
    assert "halyard → halyard 1.00" in shown.out
    assert "zebra → -" in shown.out
    ((match, *_),) = rag("search", kb, "halyard", "-k", "1", "--explain", "--json").json["matches"]
    assert match["query"] == [0, 7]
    assert rag("ask", kb, "What hoists a sail?").code == 0
    for by in ("hybrid", "dense", "bm25", "maxsim"):
        assert rag("search", kb, "halyard", "--by", by, "--json").json["hits"][0]["document"] == "sailing.md"
    for preset in PRESETS:
        assert "sailing.md" in rag("run", preset, "halyard", "-c", kb).out


def test_a_collection_without_token_vectors_is_told_so_and_upgraded(rag: RagCommand, kb: Path, documents: Path):
    assert "one vector a chunk" in rag("info", kb).out
    for refused in (
        ["search", kb, "rope", "--by", "maxsim"],
        ["search", kb, "rope", "--explain"],
        ["run", "muvera", "rope", "-c", str(kb)],
    ):
        done = rag(*refused)
        assert done.code == 4
        assert "holds no token vectors" in done.err
        assert "--multi-vector" in done.err
    done = rag("index", kb, documents, "--multi-vector")
    assert done.code == 2
    assert f"rag upgrade {kb} --multi-vector" in done.err
    done = rag("upgrade", kb, "--multi-vector", "--json").json
    assert (done["encoded"], done["rewritten"]) == (1, 0)
    assert done["token_vectors"]["missing"] == 0
    assert "1 of 1 segments" not in rag("upgrade", kb, "--multi-vector").out
    assert rag("search", kb, "rope", "--by", "maxsim").code == 0
    assert rag("upgrade", kb, "--token-codec", "float16", "--json").json["token_vectors"]["codec"] == "float16"
    assert rag("index", kb, documents, "--multi-vector").code == 0
    done = rag("index", kb, documents, "--token-encoder", "hashing:64")
    assert done.code == 2
    assert "--token-encoder hashing:64" in done.err
    assert rag("repair", kb).code == 0


def test_pooled_tokens_from_indexing_to_upgrading(rag: RagCommand, documents: Path, tmp_path: Path):
    kb = tmp_path / "pooled"
    assert rag("index", kb, documents, "--token-pool", "2").code == 0
    pooled = rag("info", kb, "--json").json["token_vectors"]
    assert pooled["pool_factor"] == 2
    assert "of hashing:128, one for every 2 tokens, 128 dimensions" in rag("info", kb).out
    (documents / "sailing.md").write_text("# Sailing\n\nA halyard hoists a sail.\n", encoding="utf-8")
    assert rag("index", kb, documents, "--multi-vector").code == 0, "the factor of before"
    assert rag("search", kb, "halyard", "--json").json["hits"][0]["document"] == "sailing.md"
    assert "halyard → halyard 1.00" in rag("search", kb, "halyard", "-k", "1", "--explain").out
    done = rag("index", kb, documents, "--token-pool", "1")
    assert done.code == 2
    assert f"rag upgrade {kb} --multi-vector --token-pool 1" in done.err
    whole = rag("upgrade", kb, "--token-pool", "1", "--json").json
    assert (whole["encoded"], whole["token_vectors"]["pool_factor"]) == (2, 1)
    assert rag("index", kb, documents, "--token-pool", "1").code == 0
    assert rag("upgrade", kb, "--multi-vector", "--json").json["encoded"] == 0
    assert rag("index", kb, documents, "--token-pool", "0").code == 2
    assert rag("info", kb, "--verify").code == 0


def test_files_of_no_words_and_of_very_many(rag: RagCommand, documents: Path, tmp_path: Path):
    (documents / "empty.txt").write_text("")
    (documents / "marks.txt").write_text("... --- ...\n\n?! «»\n")
    (documents / "long.txt").write_text("\n".join(f"line {i} of many words." for i in range(20_000)) + "\nthe end\n")
    kb = tmp_path / "odd"
    done = rag("index", kb, documents, "--multi-vector", "--json").json["report"]
    assert (done["added"], done["failures"]) == (6, [])
    assert rag("info", kb, "--json").json["token_vectors"]["missing"] == 0
    hit, *_ = rag("search", kb, "19999 of many words", "--by", "maxsim", "--json").json["hits"]
    assert (hit["document"], "line 19999" in hit["text"]) == ("long.txt", True)
    assert rag("search", kb, "?!", "--by", "maxsim").code == 0
    assert rag("search", kb, "...", "--explain").code == 0


def test_a_damaged_file_of_tokens_is_repaired(rag: RagCommand, documents: Path, tmp_path: Path):
    kb = tmp_path / "late"
    assert rag("index", kb, documents, "--multi-vector").code == 0
    before = rag("search", kb, "halyard sail", "--json").json
    (path,) = (kb / "segments").glob("*.tokens")
    path.write_bytes(path.read_bytes()[:-9])
    done = rag("search", kb, "sail")
    assert done.code == 4
    assert path.name in done.err
    assert f"rag repair {kb}" in done.err or "rag repair" in done.err
    assert rag("repair", kb).code == 0
    assert rag("search", kb, "halyard sail", "--json").json == before


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Questions on three documents of which word order does not matter, and a cache of their own."""
    pytest.importorskip("ir_measures")
    monkeypatch.setenv("RAG_CACHE", str(tmp_path / "cache"))
    home = tmp_path / "tiny"
    (home / "qrels").mkdir(parents=True)
    texts = {"d1": "Wings lift birds into the air.", "d2": "Jet engines push aircraft.", "d3": "Keels keep boats."}
    questions = {"q1": "what lifts birds with wings", "q2": "engines push what"}
    for name, rows in (("corpus", texts), ("queries", questions)):
        lines = (json.dumps({"_id": key, "text": text}) for key, text in rows.items())
        (home / f"{name}.jsonl").write_text("\n".join(lines))
    (home / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n")
    return home


def test_evaluating_what_ranks_by_tokens_makes_them(rag: RagCommand, dataset: Path, tmp_path: Path):
    def kept() -> list[dict[str, int] | None]:
        return [
            rag("info", kb, "--json").json["token_vectors"] for kb in sorted((tmp_path / "cache/evaluate").iterdir())
        ]

    assert rag("eval", dataset, "bm25", "--json").code == 0
    assert kept() == [None]
    done = rag("eval", dataset, *PRESETS, "-m", "RR", "--json").json["runs"]
    assert {name: run["means"]["RR"] for name, run in done.items()} == dict.fromkeys(PRESETS, 1.0)
    assert sum(one is not None for one in kept()) == 1
    assert rag("eval", dataset, "bm25", "--multi-vector", "--json").code == 0
    assert len(kept()) == 2, "the same one again"
    assert rag("eval", dataset, "muvera", "--token-pool", "2", "--json").code == 0
    assert sorted(one["pool_factor"] for one in kept() if one) == [1, 2]
    assert "RR" in rag("eval", dataset, "bm25", "muvera", "-m", "RR").out
