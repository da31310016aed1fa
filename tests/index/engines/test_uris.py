"""The URIs of engines, for which no engine needs to be installed."""

from __future__ import annotations

import sys

import pytest

from rag.errors import ConfigError, MissingExtraError
from rag.index.engines import canonical_uri, open_engine


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("faiss", "faiss:hnsw"),
        ("faiss:flat", "faiss:flat"),
        ("milvus", "milvus:"),
        ("milvus:/data/x.db", "milvus:/data/x.db"),
        ("milvus:///data/x.db", "milvus:/data/x.db"),
        ("milvus://db.example", "milvus://db.example:19530"),
        ("milvus://db.example:1234/papers/", "milvus://db.example:1234/papers"),
        ("http://[::1]:1234", "http://[::1]:1234"),
        ("https://db.example/papers", "https://db.example:443/papers"),
    ],
)
def test_uris_in_full(given: str, full: str) -> None:
    assert canonical_uri(given) == full == canonical_uri(full)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "qdrant:x",
        "os.path:join",
        "faiss:pq",
        "milvus:vectors.sqlite",
        "milvus://root:sesame@db.example",
        "milvus://sesame@db.example",
        "https://db.example?token=sesame",
        "https://db.example#sesame",
        "milvus://db.example:port",
        "milvus://db.example/a/b",
        "https://",
    ],
)
def test_uris_that_are_none(given: str) -> None:
    with pytest.raises(ConfigError) as error:
        canonical_uri(given)
    assert error.value.hint
    assert "sesame" not in str(error.value)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, uri in (("faiss", "faiss"), ("pymilvus", "milvus://host"), ("milvus_lite", "milvus:/tmp/x.db")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"modular-rag\[{uri.partition(':')[0]}\]"):
            open_engine(uri, 4)
        monkeypatch.undo()
    with pytest.raises(ConfigError, match="without a path"):
        open_engine("milvus", 4)
