"""MilvusIndex: the conformance tests on embedded Milvus, and what it does about limits, strangers and failures."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.errors import CollectionError, ConfigError, EngineError, InputError
from rag.index import Metric, ScanIndex, VectorIndex
from rag.index.engines import MilvusIndex, canonical_uri, milvus, open_engine
from tests.index.conformance import VectorIndexConformance, random_vectors

pytest.importorskip("pymilvus", reason="extra milvus")
pytest.importorskip("milvus_lite", reason="extra milvus")

numbers = count()


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"milvus:{tmp_path_factory.mktemp('milvus') / 'vectors.db'}"


@pytest.fixture(scope="module", autouse=True)
def _serving(uri: str) -> Iterator[None]:
    """Keep the file in use, so that it is not opened anew for each test."""
    index = open_engine(uri, 2, name="unused")
    yield
    assert isinstance(index, MilvusIndex)
    index.close()


def opened(uri: str, dim: int, metric: Metric = "cosine", name: str | None = None) -> MilvusIndex:
    index = open_engine(uri, dim, metric, name=name or f"test_{next(numbers)}")
    assert isinstance(index, MilvusIndex)
    return index


class Milvus(VectorIndexConformance):
    # Embedded Milvus ranks exactly, and rounds differently with the size of a batch.
    exact = False

    @pytest.fixture(autouse=True)
    def _uri(self, uri: str) -> None:
        Milvus.uri = uri

    uri: str

    def make(self, dim: int) -> MilvusIndex:
        return opened(Milvus.uri, dim, self.metric)

    def reopen(self, index: VectorIndex, path: Path) -> VectorIndex | None:
        # The test changes both, so that the one that is opened again has to be a copy.
        assert isinstance(index, MilvusIndex)
        copy = opened(Milvus.uri, index.dim, self.metric)
        ids = index.ids()
        rows = index._client.query(index.name, filter=f"id in {ids.tolist()}", output_fields=["id", "vector"])
        copy.add(np.array([r["id"] for r in rows]), np.array([r["vector"] for r in rows], np.float32))
        return opened(Milvus.uri, copy.dim, self.metric, copy.name)


class TestIp(Milvus):
    metric = "ip"


class TestCosine(Milvus):
    metric = "cosine"


class TestL2(Milvus):
    metric = "l2"
