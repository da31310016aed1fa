"""rag cache: what warm computes is what pipelines find, and what info and clear tell of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rag.collection import Collection
from rag.kvcache import DiskStore
from rag.kvcache.folder import FolderSettings, user_folder
from rag.models import load
from rag.operators.generation import Generate
from rag.pipelines import Pipeline, Run
from rag.serve.asking import passages_for
from rag.types import Query
from tests.models.tiny import save_tiny_models
from tests.serve.conftest import RagCommand


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local:{save_tiny_models(tmp_path_factory.mktemp('models'), context=4096)['llama']}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kvcache"


@pytest.fixture
def kb(rag: RagCommand, documents: Path, tmp_path: Path) -> Path:
    assert rag("index", tmp_path / "kb", documents).code == 0
    return tmp_path / "kb"


def computed(kb: Path, model: str) -> list[int]:
    """Tokens that were missing in the store, of each chunk of a prompt that is read by a model loaded anew."""
    with Collection.open(kb) as collection:
        flow = passages_for(collection, None, 3) >> Generate(kv_cache="chunks", quality="recompute=0.1", max_tokens=1)
        run = Run()
        Pipeline(flow, collection=collection, llm=load(model)).run(Query("sheet rope sail"), observe=run)
        reports = [report for span in run.spans for report in span.prefills]
        return [one.stored for report in reports for one in report.segments if one.kind == "chunk"]  # type: ignore[attr-defined]


@pytest.mark.torch
def test_what_is_warmed_is_found_by_other_processes(rag: RagCommand, kb: Path, model: str, cache: Path):
    assert all(computed(kb, model))  # without the folder
    assert not cache.exists()
    done = rag("cache", "warm", kb, "--llm", model, "--json")
    assert done.code == 0, done.err
    with Collection.open(kb) as collection:
        chunks = len(collection)
        assert collection.verify().ok
    assert done.json["folder"] == str(cache)
    assert (done.json["computed"], done.json["known"], done.json["left_out"]) == (chunks, 0, 0)
    assert not any(computed(kb, model))
    again = rag("cache", "warm", kb, "--llm", model)
    assert f"0 chunks computed, {chunks} were there" in again.out.replace("\n", " ")

    told = rag("cache", "info", "--json").json
    assert (told["folder"], told["budget"], told["codec"]) == (str(user_folder()), 8 << 30, "computed")
    (row,) = told["states"]
    assert row["entries"] >= chunks
    assert row["bytes"] == told["bytes"] == sum(entry.nbytes for entry in DiskStore(cache).entries())
    assert row["uses"] > 0
    assert "computed" in rag("cache", "info", cache).out

    assert "entries dropped" in rag("cache", "clear").out.replace("\n", " ")
    assert len(DiskStore(cache)) == 0
    assert FolderSettings.of(cache) is None
    assert all(computed(kb, model))


@pytest.mark.torch
def test_warming_keeps_to_the_budget_and_the_codec(rag: RagCommand, kb: Path, model: str, cache: Path):
    assert rag("cache", "warm", kb, "--llm", model, "--codec", "int8").code == 0
    full = sum(entry.nbytes for entry in DiskStore(cache).entries())
    assert {entry.codec for entry in DiskStore(cache).entries()} == {"int8"}
    assert rag("cache", "clear").code == 0
    done = rag("cache", "warm", kb, "--llm", model, "--codec", "int8", "--budget", f"{full * 2 // 3}", "--json")
    assert done.code == 0, done.err
    assert done.json["left_out"] > 0
    assert done.json["bytes"] <= done.json["budget"] == full * 2 // 3
    settings = FolderSettings.of(cache)
    assert settings is not None
    assert settings.codec == "int8"


def test_what_is_wrong_is_told(rag: RagCommand, kb: Path, tmp_path: Path):
    assert rag("cache", "info").code == 3
    assert rag("cache", "clear", tmp_path / "nowhere").code == 3
    assert rag("cache", "warm", kb).code == 2
    assert rag("cache", "warm", kb, "--llm", "scripted:yes").code == 2
    assert "no number of bytes" in rag("cache", "warm", kb, "--llm", "local:x", "--budget", "much").err


def test_settings_that_cannot_be_read_leave_the_folder_alone(cache: Path, caplog: pytest.LogCaptureFixture):
    os.makedirs(cache)
    (cache / "settings.json").write_text('{"budget": -1}')
    assert FolderSettings.of(cache) is None
    assert "cannot be used" in caplog.text
