"""A small collection that all tests here share, and samples that start afresh."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag.collection import Collection
from rag.operators.indexing.ingest import index_paths
from tests.serve.service import samples

SAILING = """---
year: 2021
---
# Sailing

A sheet is a rope that controls a sail. The mainsail was invented in 1492 by nobody in particular.
"""


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "sub").mkdir()
    (folder / "sailing.md").write_text(SAILING, encoding="utf-8")
    (folder / "sub" / "cooking.txt").write_text(
        "A roux is made of flour and butter. It thickens sauces 🥣 at once.\n", encoding="utf-8"
    )
    (folder / "größe.txt").write_text("Die Größe des Segels wird in Quadratmetern gemessen.\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def kb(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collections") / "kb"
    with Collection.create(path, encoder="hashing:128") as made:
        index_paths(made, documents)
    return path


@pytest.fixture(scope="session")
def collection(kb: Path) -> Iterator[Collection]:
    with Collection.open(kb) as opened:
        yield opened


@pytest.fixture(scope="session")
def late(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """A collection of the same documents that holds token vectors."""
    with Collection.create(
        tmp_path_factory.mktemp("collections") / "late", encoder="hashing:128", tokens="hashing:128"
    ) as made:
        index_paths(made, documents)
        yield made


@pytest.fixture(autouse=True)
def fresh_samples() -> Iterator[None]:
    samples.gate.clear()
    samples.batches.clear()
    samples.entered = threading.Semaphore(0)
    yield
    samples.gate.set()
