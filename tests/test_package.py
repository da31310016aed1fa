"""What the package as a whole promises: public names, light imports, the links at the root."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import rag

ROOT = Path(__file__).resolve().parent.parent

REPORT = """
import json, sys, time
before = time.process_time()
{statement}
print(json.dumps({{"seconds": time.process_time() - before, "modules": sorted(sys.modules)}}))
"""


def measure(statement: str) -> tuple[float, set[str]]:
    """Process CPU seconds of a statement in a fresh interpreter (the best of five) and the modules it loaded."""
    reports = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", REPORT.format(statement=statement)], capture_output=True, text=True, check=True
        )
        reports.append(json.loads(done.stdout))
    return min(r["seconds"] for r in reports), set(reports[0]["modules"])


def test_every_public_name_is_there_and_nothing_else():
    assert sorted(rag.__all__) == rag.__all__
    for name in rag.__all__:
        assert getattr(rag, name).__name__ == name
    assert set(dir(rag)) == {*rag.__all__, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = rag.nonsense


def test_import_rag_is_light():
    seconds, modules = measure("import rag")
    assert seconds < 0.150
    assert not modules & {"torch", "transformers", "numpy", "networkx", "pydantic"}


def test_the_working_parts_load_no_heavy_package():
    _, modules = measure("from rag import Pipeline, Collection, Operator; import rag.operators.retrieval")
    heavy = {
        "torch",
        "transformers",
        "sentence_transformers",
        "networkx",
        "tokenizers",
        "typer",
        "rich",
        "bs4",
        "scipy",
    }
    assert not modules & heavy


def test_the_links_at_the_root_lead_into_the_package():
    for room in ("operators", "graphs", "pipelines"):
        assert (ROOT / room).resolve() == ROOT / "rag" / room


def test_it_is_marked_as_typed():
    assert (ROOT / "rag" / "py.typed").is_file()
