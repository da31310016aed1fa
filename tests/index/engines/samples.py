"""Collections on other engines with the known history of commits, and writers of them that are killed."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

from rag.collection import Collection
from rag.index import Metric
from rag.index.engines import MilvusIndex
from tests.collection.samples import ENCODER, advance, check, histories

HISTORY = list(islice(histories(), 400))


def create(path: Path, uri: str | None, generations: int = 0, metric: Metric = "cosine") -> Collection:
    collection = Collection.create(path, encoder=ENCODER, engine=uri, metric=metric)
    with collection.writer() as writer:
        for _ in range(generations):
            advance(writer)
    return collection


def mirrored(collection: Collection) -> MilvusIndex:
    """The Milvus index of a collection."""
    assert collection._mirror is not None
    return collection._mirror.connect()


def killed(path: Path, point: str, seconds: float = 0) -> int:
    """Run a writer until it is killed; the last generation that it acknowledged."""
    command = [sys.executable, "-m", "tests.index.engines.killed", str(path), point]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    lines = [process.stdout.readline()]
    if point == "never":
        time.sleep(seconds)
        process.kill()
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == -9, errors
    return max(int(line) for line in [*lines, *rest.splitlines()] if line.strip())


def examine(path: Path, acknowledged: int) -> None:
    """What is read right after the death, and in step again once a writer has opened."""
    with Collection.open(path, encoder=ENCODER) as collection:
        assert acknowledged <= collection.generation <= acknowledged + 1
        check(collection, HISTORY[collection.generation])
        assert collection.verify().ok
        with collection.writer() as writer:
            advance(writer)
        check(collection, HISTORY[collection.generation])
        if collection.info().engine == "milvus:":
            assert (mirrored(collection).ids() == collection.chunk_ids()).all()
