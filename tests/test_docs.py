"""Every example in the README and the guides runs: Python, pipelines in YAML, and command lines of `rag`."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from rag.collection import Collection
from rag.operators.indexing.ingest import index_paths
from rag.pipelines import Pipeline
from rag.serve import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `documents`, this project's guides, and `kb`, a collection of them."""
    shutil.copytree(ROOT / "docs", tmp_path / "documents")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("RAG_ENCODER", "hashing:128")
    monkeypatch.delenv("RAG_LLM", raising=False)
    with Collection.create(tmp_path / "kb", encoder="hashing:128") as kb:
        index_paths(kb, tmp_path / "documents")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run_in_their_order(page: Path, workplace: Path):
    names: dict[str, object] = {"__name__": f"docs.{page.stem}"}
    for block in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if block.type != "fence":
            continue
        line = block.map[0] + 2 if block.map else 0
        if block.info == "python":
            source = "\n" * (line - 1) + block.content  # so that a traceback names the line of the page
            exec(compile(source, str(page), "exec", dont_inherit=True), names)
        elif block.info == "yaml" and "\nflow:" in "\n" + block.content:
            Pipeline.from_yaml(block.content)
        elif block.info == "console":
            for command in block.content.splitlines():
                if command.startswith("$ rag "):
                    assert cli.run(shlex.split(command[6:], comments=True)) == 0, f"{page.name}:{line}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path):
    for block in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        for child in block.children or []:
            target = str(child.attrs.get("href") or child.attrs.get("src") or "")
            if target and not target.startswith(("http", "#", "mailto:")):
                assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"
