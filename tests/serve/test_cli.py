"""The command line as a user meets it: output, JSON, errors, exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.serve.conftest import RagCommand


def test_help_lists_the_commands(rag: RagCommand):
    done = rag("--help")
    assert done.code == 0
    for command in (
        "index",
        "search",
        "ask",
        "filter",
        "info",
        "profile",
        "run",
        "check",
        "schema",
        "eval",
        "operators",
        "repair",
        "upgrade",
    ):
        assert f" {command} " in done.out


def test_version(rag: RagCommand):
    assert rag("--version").out.startswith("modular-rag 0.")


def test_index_tells_what_it_did_and_does_nothing_twice(rag: RagCommand, documents: Path, tmp_path: Path):
    first = rag("index", tmp_path / "kb", documents)
    assert first.code == 0
    assert "3 added" in first.out
    again = rag("index", tmp_path / "kb", documents, "--json").json["report"]
    assert (again["added"], again["unchanged"], again["chunks"]) == (0, 3, 0)
    (documents / "größe.txt").unlink()
    (documents / "sailing.md").write_text("# Sailing\n\nA halyard hoists a sail.\n", encoding="utf-8")
    changed = rag("index", tmp_path / "kb", documents, "--json").json["report"]
    assert (changed["changed"], changed["deleted"], changed["unchanged"]) == (1, 1, 1)


def test_search_shows_places_and_finds_by_filter(rag: RagCommand, kb: Path):
    done = rag("search", kb, "rope that controls a sail", "-k", "1")
    assert done.code == 0
    assert "sailing.md:" in done.out
    hits = rag("search", kb, "rope", "--filter", "year == 2021", "--json").json["hits"]
    assert {hit["document"] for hit in hits} == {"sailing.md"}
    for by in ("dense", "bm25"):
        assert rag("search", kb, "Größe des Segels", "--by", by, "--json").json["hits"][0]["document"] == "größe.txt"


def test_ask_answers_with_citations_that_hold(rag: RagCommand, kb: Path, documents: Path):
    done = rag("ask", kb, "What is a roux made of?")
    assert done.code == 0
    assert "flour" in done.out
    assert "sub/cooking.txt:1" in done.out
    answer = rag("ask", kb, "What is a roux made of?", "--json").json["answer"]
    assert answer["found"]
    text = (documents / "sub" / "cooking.txt").read_text(encoding="utf-8")
    for citation in answer["citations"]:
        assert text[citation["start"] : citation["end"]] == citation["quote"]


def test_ask_with_a_language_model_uses_it(rag: RagCommand, kb: Path, monkeypatch: pytest.MonkeyPatch):
    assert rag("ask", kb, "What is a roux?", "--llm", "nonsense:model").code == 3
    monkeypatch.setenv("RAG_LLM", "nonsense:model")
    done = rag("ask", kb, "What is a roux?")
    assert done.code == 3
    assert "nonsense" in done.err


def test_ask_reads_questions_until_the_input_ends(kb: Path):
    done = subprocess.run(
        [sys.executable, "-m", "rag", "ask", str(kb), "--json"],
        input="What is a roux made of?\nWhat is a sheet?\n",
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["question"] for a in answers] == ["What is a roux made of?", "What is a sheet?"]


def test_info_shows_and_verifies(rag: RagCommand, kb: Path):
    facts = rag("info", kb, "--verify", "--json").json
    assert facts["documents"] == 3
    assert facts["encoder"] == "hashing:128"
    assert facts["verified"]["problems"] == []
    assert "hashing:128" in rag("info", kb).out


def test_info_tells_how_each_segment_keeps_vectors_and_upgrade_changes_it(rag: RagCommand, kb: Path):
    facts = rag("info", kb, "--json").json
    (kept,) = facts["indexes"]
    assert (facts["codec"], kept["kind"], kept["codec"], kept["tombstones"]) == ("auto", "scan", "float32", 0)
    assert kept["chunks"] == facts["chunks"]
    assert kept["bytes"] == facts["bytes"]["vectors"]
    assert "each segment decides by itself" in rag("info", kb).out
    assert rag("upgrade", kb, "--json").json["rewritten"] == 0
    done = rag("upgrade", kb, "--codec", "int8")
    assert done.code == 0
    assert "1 of 1 segments written anew" in done.out
    assert "in int8" in rag("info", kb).out
    assert rag("info", kb, "--verify", "--json").json["codec"] == "int8"
    assert rag("search", kb, "rope", "--recall", "1").code == 0
    assert rag("ask", kb, "What is a sheet?", "--recall", "0.9").code == 0


def test_a_codec_is_not_changed_by_indexing_again(rag: RagCommand, kb: Path, documents: Path):
    done = rag("index", kb, documents, "--codec", "leanvec")
    assert done.code == 2
    assert "rag upgrade" in done.err
    assert rag("index", kb, documents, "--codec", "auto").code == 0


def test_damage_is_found_and_repaired(rag: RagCommand, kb: Path):
    vectors = next((kb / "segments").glob("*.vectors"))
    data = bytearray(vectors.read_bytes())
    data[len(data) // 2] ^= 0xFF
    vectors.write_bytes(bytes(data))
    for command in (("search", kb, "rope"), ("info", kb, "--verify")):
        done = rag(*command)
        assert done.code == 4
        assert vectors.name in done.err
        assert "Traceback" not in done.err
    assert rag("repair", kb).code == 0
    assert rag("search", kb, "rope").code == 0
    assert rag("info", kb, "--verify").code == 0


def test_run_presets_and_files(rag: RagCommand, kb: Path, tmp_path: Path):
    state = rag("run", "hybrid", "what is a roux", "-c", kb, "--json").json
    assert state["hits"][0]["document"] == "sub/cooking.txt"
    (tmp_path / "mine.yaml").write_text(f"collection: {kb}\nflow: [bm25]\n", encoding="utf-8")
    done = rag("run", "mine.yaml", "halyard sheet", "--trace")
    assert "sailing.md" in done.out
    assert "bm25" in done.err
    assert "cooking" in rag("run", "extractive", "what is a roux", "-c", kb).out


def test_check_tells_line_and_remedy(rag: RagCommand, tmp_path: Path):
    (tmp_path / "bad.yaml").write_text("flow:\n  - dense\n  - densse\n", encoding="utf-8")
    done = rag("check", "bad.yaml")
    assert done.code == 2
    assert "bad.yaml, line 3: no operator is named 'densse'" in done.err
    assert "did you mean 'dense'" in done.err
    (tmp_path / "unjoined.yaml").write_text("flow:\n  - parallel: [dense, bm25]\n  - build_context\n", encoding="utf-8")
    done = rag("check", "unjoined.yaml")
    assert done.code == 2
    assert "line 3" in done.err
    assert "fuse" in done.err
    assert rag("check", "hybrid", "--json").json["ok"] is True


def test_schema_is_json_and_can_be_written(rag: RagCommand, tmp_path: Path):
    assert "$defs" in rag("schema").json
    assert rag("schema", "-o", tmp_path / "schema.json").code == 0
    assert json.loads((tmp_path / "schema.json").read_text())["title"] == "modular-rag pipeline"


def test_operators_are_listed_and_explained(rag: RagCommand):
    assert "retrieval.fuse" in rag("operators").out
    shown = rag("operators", "fuse").out
    assert "reciprocal rank fusion" in shown
    assert "weights" in shown
    assert rag("operators", "fuse", "--json").json["reads"] == {"hits": "list[Hits]"}
    assert rag("operators", "fus").code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "nowhere", "x"], 3, "nowhere is not a collection"),
        (["index", "kb2", "missing-folder"], 3, "no file or folder 'missing-folder'"),
        (["run", "hibrid", "x"], 3, "did you mean 'hybrid'"),
        (["run", "none.yaml", "x"], 3, "no pipeline file 'none.yaml'"),
        (["run", "hybrid", "x"], 2, "needs a Collection"),
        (["search"], 2, "Missing argument"),
        (["serch"], 2, "No such command"),
        (["index", "kb3", ".", "--encoder", "hushing"], 3, "did you mean"),
    ],
)
def test_errors_are_clear_and_have_a_code(rag: RagCommand, arguments: list[str], code: int, message: str):
    done = rag(*arguments)
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err


def test_filters_are_checked(rag: RagCommand, kb: Path):
    done = rag("search", kb, "x", "--filter", "yeer == 3")
    assert done.code == 2
    assert "year" in done.err
    assert rag("search", kb, "x", "--filter", "__import__('os')").code == 2


def test_another_encoder_is_refused(rag: RagCommand, kb: Path, documents: Path):
    done = rag("index", kb, documents, "--encoder", "hashing:64")
    assert done.code == 2
    assert "hashing:128" in done.err


def test_an_empty_folder_makes_an_empty_collection(rag: RagCommand, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    done = rag("index", tmp_path / "kb", tmp_path / "empty")
    assert done.code == 0
    assert "no files" in done.err
    assert rag("search", tmp_path / "kb", "anything").code == 0
    answer = rag("ask", tmp_path / "kb", "anything?", "--json").json["answer"]
    assert not answer["found"]


def test_unreadable_files_are_told_and_the_rest_is_indexed(rag: RagCommand, documents: Path, tmp_path: Path):
    (documents / "broken.pdf").write_bytes(b"%PDF-1.7 but not really")
    (documents / "junk.txt").write_bytes(bytes(range(256)) * 20)
    done = rag("index", tmp_path / "kb", documents)
    assert done.code == 0
    assert "3 added" in done.out
    assert "broken.pdf" in done.err
    assert "junk.txt" in done.err


def test_settings_files_name_models_and_are_checked(rag: RagCommand, kb: Path, tmp_path: Path):
    (tmp_path / "rag.yaml").write_text("llm: nonsense:model\n", encoding="utf-8")
    assert "nonsense" in rag("ask", kb, "What?").err
    (tmp_path / "rag.yaml").write_text("lm: x\n", encoding="utf-8")
    done = rag("ask", kb, "What?")
    assert done.code == 2
    assert "did you mean 'llm'" in done.err


def test_ctrl_c_while_indexing_keeps_what_was_committed(rag: RagCommand, tmp_path: Path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(3000):
        (folder / f"{i:04}.txt").write_text(f"Note number {i} about subject {i % 17}. " * 40, encoding="utf-8")
    command = [sys.executable, "-m", "rag", "index", str(tmp_path / "kb"), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    manifest = tmp_path / "kb" / "manifest.json"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (manifest.exists() and '"generation": 0' not in manifest.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    held = rag("info", tmp_path / "kb", "--verify", "--json")
    assert held.code == 0
    report = rag("index", tmp_path / "kb", folder, "--json").json["report"]
    assert report["added"] + report["unchanged"] == 3000
    assert report["unchanged"] >= held.json["documents"] > 0


def test_a_reader_that_has_enough_ends_us_quietly(kb: Path):
    with subprocess.Popen(
        [sys.executable, "-m", "rag", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_it_runs_from_the_repository_root_and_elsewhere(tmp_path: Path):
    root = Path(__file__).resolve().parent.parent.parent
    for folder in (root, tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", "import rag._native, rag; from rag import Pipeline; print(rag.__version__)"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
