"""A folder of documents, a collection of them, and a way to run command lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rag.serve import cli


@dataclass
class Outcome:
    """What a command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


RagCommand = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def no_settings_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("RAG_ENCODER", "hashing:128")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("RAG_LLM", raising=False)


@pytest.fixture
def rag(capfd: pytest.CaptureFixture[str]) -> RagCommand:
    """Run a command line of `rag`."""

    def run(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        code = cli.run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    (folder / "sub").mkdir(parents=True)
    (folder / "sailing.md").write_text(
        "---\nyear: 2021\n---\n# Sailing\n\nA sheet is a rope that controls a sail.\n\n"
        "The mainsail was invented in 1492 by nobody in particular.\n",
        encoding="utf-8",
    )
    (folder / "sub" / "cooking.txt").write_text(
        "A roux is made of flour and butter. It thickens sauces.\n", encoding="utf-8"
    )
    (folder / "größe.txt").write_text("Die Größe des Segels wird in Quadratmetern gemessen.\n", encoding="utf-8")
    return folder


@pytest.fixture
def kb(rag: RagCommand, documents: Path, tmp_path: Path) -> Path:
    path = tmp_path / "kb"
    assert rag("index", path, documents).code == 0
    return path
