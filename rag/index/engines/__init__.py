"""Other engines behind the protocol `VectorIndex`, by URI.

    faiss:hnsw, faiss:ivf, faiss:flat   in this process; "faiss" is "faiss:hnsw"
    milvus:/path/to/vectors.db          Milvus embedded in this process; "milvus" keeps it in the collection's folder
    milvus://host:19530/database        a Milvus server or cluster; also http://... and, encrypted, https://...

A URI never holds a secret: the token of a server is read from the environment variable MILVUS_TOKEN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rag.errors import ConfigError, did_you_mean
from rag.index.engines import faiss, milvus
from rag.index.engines.faiss import FaissIndex
from rag.index.engines.milvus import MilvusIndex
from rag.index.protocol import Metric

__all__ = ["FaissIndex", "MilvusIndex", "canonical_uri", "is_faiss", "open_engine"]


@dataclass(frozen=True)
class _Engine:
    canonical: Callable[[str], str]
    open: Callable[[str, int, Metric, str], FaissIndex | MilvusIndex]


_FAISS = _Engine(faiss.canonical_uri, lambda uri, dim, metric, name: FaissIndex(dim, metric, faiss.kind_of(uri)))
_MILVUS = _Engine(milvus.canonical_uri, milvus.connect)
_ENGINES: Mapping[str, _Engine] = {"faiss": _FAISS, "milvus": _MILVUS, "http": _MILVUS, "https": _MILVUS}


def canonical_uri(uri: str) -> str:
    """The URI written out in full, as a manifest keeps it. Connects to nothing.

    Raises ConfigError for an engine that is not known, and for a URI that is malformed or holds a secret.
    """
    return _engine(uri).canonical(uri)


def is_faiss(uri: str) -> bool:
    """Whether a canonical URI names an engine whose indexes are files of ours."""
    return uri.startswith("faiss:")


def open_engine(uri: str, dim: int, metric: Metric = "cosine", *, name: str = "vectors") -> FaissIndex | MilvusIndex:
    """The index that a URI names, for vectors of `dim` numbers: one that is there, or an empty one.

    Milvus keeps several indexes apart by `name`, and is given by its server or by the path of its .db.
    Raises ConfigError (see `canonical_uri`), MissingExtraError when the engine is not installed, and EngineError when
    the server cannot be reached, refuses the token, or holds vectors of another dimension or metric there.
    """
    return _engine(uri).open(canonical_uri(uri), dim, metric, name)


def _engine(uri: str) -> _Engine:
    name = uri.partition(":")[0]
    if name not in _ENGINES:
        raise ConfigError(f"there is no engine {name!r}", hint=did_you_mean(name, _ENGINES))
    return _ENGINES[name]
