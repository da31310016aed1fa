"""Milvus as a vector index: a server or cluster, or embedded in this process by milvus-lite (extra `milvus`).

Follows the client's reference (https://milvus.io/api-reference/pymilvus) and the limits that servers set
(https://milvus.io/docs/limitations.md).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn, get_args
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from rag.errors import ConfigError, InputError, did_you_mean
from rag.index.engines.checks import check_dim, checked_new, checked_vectors
from rag.index.engines.milvus_client import MilvusClient
from rag.index.engines.widen import nothing, widened
from rag.index.filter import IdFilter, allowed_ids
from rag.index.inputs import as_ids, check_count, check_k
from rag.index.merge import merge_matches
from rag.index.protocol import Matches, Metric

__all__ = ["MilvusIndex", "canonical_uri", "connect"]

MAX_DIM = 32768
MOST_RESULTS = 16384
"""A server gives no more results a query, and takes no more queries at once."""
MOST_IDS = 8192
"""Ids that are named in one expression or answer."""
MOST_SLICES = 4
"""Filters of up to so many expressions are asked one by one; larger ones are first applied to unfiltered results."""
INSERT_BYTES = 16 << 20
ANSWER_RESULTS = 1 << 19
"""Messages reach 64 MB at most; these stay well below."""


class MilvusIndex:
    """A `VectorIndex` that is a Milvus collection with the fields `id` and `vector`, made when it is not there.

    Embedded, it is exact; a server chooses its own index (AUTOINDEX), which is approximate. Safe to use from several
    threads. Every search sees what was added before it. `close` gives the connection, or the file, back.
    Raises EngineError when Milvus fails, and when what is there under `name` has another dimension or metric.
    """

    def __init__(self, client: MilvusClient, name: str, dim: int, metric: Metric) -> None:
        self._dim = check_dim(dim, MAX_DIM)
        if metric not in get_args(Metric):
            raise InputError(f"metric is {metric!r}", hint=did_you_mean(str(metric), get_args(Metric)))
        if not re.fullmatch(r"[A-Za-z_]\w{0,254}", name, re.ASCII):
            raise InputError(f"{name!r} cannot be the name of a Milvus collection", hint="letters, digits and _")
        self._metric: Metric = metric
        self._client = client
        self._name = name
        self._writing = threading.Lock()
        client.ensure_collection(name, self._dim, metric.upper())

    @property
    def dim(self) -> int:
        """Numbers a vector."""
        return self._dim

    @property
    def metric(self) -> Metric:
        """How similarity is measured."""
        return self._metric

    @property
    def name(self) -> str:
        """Of the Milvus collection."""
        return self._name

    def __len__(self) -> int:
        """Vectors that can be found, counted by the server."""
        return self._count("")

    def __repr__(self) -> str:
        return f"MilvusIndex({self._client.address!r}, name={self.name!r}, dim={self.dim}, metric={self.metric!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a MilvusIndex cannot be pickled; open_engine the same URI in the other process")

    def close(self) -> None:
        """Give the connection back; embedded, the file is free for another process when all who use it have closed."""
        self._client.close()

    # Changes

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors float32[n, dim] under new ids int64[n] (each >= 0), in as many requests as the server needs.

        Raises InputError, and adds nothing, for NaN or infinity, a wrong dimension, an id that is there already or
        given twice, or a vector of zeros under cosine; and EngineError, when some may have been added.
        """
        matrix = checked_vectors(vectors, self.dim, self.metric)
        new = checked_new(ids, len(matrix))
        with self._writing:
            if len(there := self._there(new)):
                raise InputError(f"id {there[0]} is there already", hint="delete it first")
            step = max(1, min(MOST_IDS, INSERT_BYTES // (4 * self.dim)))
            for start in range(0, len(new), step):
                rows = zip(new[start : start + step].tolist(), matrix[start : start + step], strict=True)
                self._client.insert(self._name, [{"id": id, "vector": vector} for id, vector in rows])

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Remove these ids (int64[n]); ids that are not there are passed over. Returns how many were there."""
        with self._writing:
            there = self._there(np.unique(as_ids(ids)))
            for some in _slices(there):
                self._client.delete(self._name, ids=some.tolist())
        return len(there)

    def ids(self) -> NDArray[np.int64]:
        """All ids, int64[n], sorted. Ranges that hold too many for one answer are halved."""
        found: list[int] = []
        ranges = [(0, 2**63 - 1)]
        while ranges:
            first, last = ranges.pop()
            expression = f"id >= {first} and id <= {last}"
            count = self._count(expression)
            if count > MOST_IDS:
                middle = (first + last) // 2
                ranges += [(first, middle), (middle + 1, last)]
            elif count:
                rows = self._client.query(self._name, filter=expression, output_fields=["id"])
                found += [row["id"] for row in rows]
        return np.sort(np.array(found, np.int64))

    def _count(self, expression: str) -> int:
        rows = self._client.query(self._name, filter=expression, output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def _there(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        found = [
            row["id"]
            for some in _slices(ids)
            for row in self._client.query(self._name, filter=_expression(some), output_fields=["id"])
        ]
        return np.array(found, np.int64)

    # Searching

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        filter: IdFilter | NDArray[np.int64] | None = None,
        threads: int = 0,
    ) -> Matches:
        """The k nearest for each query float32[q, dim]: ids int64[q, k] and scores float32[q, k], best first.

        With `filter` (allowed ids int64[m], sorted and unique; unknown ones are passed over) among those only. The
        server uses the threads that it likes. Raises InputError for NaN or infinity, a wrong dimension, k < 1, a query
        of zeros under cosine, or a k above 16,384 in an index that holds more.
        """
        matrix = checked_vectors(queries, self.dim, self.metric, "queries")
        allowed, wanted = allowed_ids(filter), check_k(k)
        check_count(threads, "threads")
        if not len(matrix) or (allowed is not None and not len(allowed)):
            return nothing(len(matrix), wanted)
        if wanted > MOST_RESULTS and len(self) > MOST_RESULTS:
            raise InputError(f"k is {wanted}, and Milvus gives at most {MOST_RESULTS} results a query")
        if allowed is not None and len(allowed) <= MOST_SLICES * MOST_IDS:
            return self._sliced(matrix, wanted, allowed)
        found, short = widened(partial(self._ask, ""), matrix, wanted, most=MOST_RESULTS, allowed=allowed)
        if allowed is not None and short.any():
            again = self._sliced(matrix[short], wanted, allowed)
            found.ids[short], found.scores[short] = again.ids, again.scores
        return found

    def _sliced(self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.int64]) -> Matches:
        """The results among `allowed` ids, so many at a time as an expression may name."""
        asks = [partial(self._ask, _expression(some)) for some in _slices(allowed)]
        return merge_matches([widened(ask, queries, k, most=MOST_RESULTS)[0] for ask in asks], k)

    def _ask(self, expression: str, queries: NDArray[np.float32], m: int) -> Matches:
        found = nothing(len(queries), m)
        step = max(1, min(MOST_RESULTS, ANSWER_RESULTS // m, INSERT_BYTES // (4 * self.dim)))
        for start in range(0, len(queries), step):
            data = list(queries[start : start + step])
            answer = self._client.search(self._name, data=data, filter=expression, limit=m, output_fields=["id"])
            for row, hits in enumerate(answer, start):
                found.ids[row, : len(hits)] = [hit["id"] for hit in hits]
                found.scores[row, : len(hits)] = [hit["distance"] for hit in hits]
        if self.metric == "l2":  # Milvus gives squared distances
            found.scores[found.ids >= 0] *= -1
        return found


def _slices(ids: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(ids), MOST_IDS):
        yield ids[start : start + MOST_IDS]


def _expression(ids: NDArray[np.int64]) -> str:
    return f"id in {ids.tolist()}"


def canonical_uri(uri: str) -> str:
    """The URI in full. ConfigError, which does not repeat it, when it is malformed or holds a secret."""
    scheme, _, rest = uri.partition(":")
    if scheme == "milvus" and (not rest.startswith("//") or rest.startswith("///")):
        if not rest:
            return "milvus:"
        path = Path(rest.removeprefix("//")).expanduser().absolute()
        if path.suffix != ".db":
            raise ConfigError(
                f"{str(path)!r} cannot be where embedded Milvus keeps its data: the name must end in .db",
                hint="milvus:/path/to/vectors.db, or milvus://HOST:PORT/DATABASE for a server",
            )
        return f"milvus:{path}"
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"the URI of a Milvus server is malformed: {error}", hint=_FORM) from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            "the URI of an engine is kept with the collection, and must hold neither user, password nor settings",
            hint="set the environment variable MILVUS_TOKEN to USER:PASSWORD or to an API key",
        )
    database = parts.path.strip("/")
    if not host or not re.fullmatch(r"\w*", database, re.ASCII):
        raise ConfigError("the URI of a Milvus server names no host, or its path is not a database", hint=_FORM)
    at = f"[{host}]" if ":" in host else host
    port = port or (443 if scheme == "https" else 19530)
    return f"{scheme}://{at}:{port}" + (f"/{database}" if database else "")


_FORM = "milvus://HOST:PORT/DATABASE, or https:// where the connection is encrypted"


def connect(uri: str, dim: int, metric: Metric, name: str, folder: Path | None = None) -> MilvusIndex:
    """The index `name` at a canonical URI, made when it is not there; "milvus:" lies in the collection's `folder`."""
    scheme, _, rest = uri.partition(":")
    if rest.startswith("//"):
        server, _, database = rest[2:].partition("/")
        address = f"{'https' if scheme == 'https' else 'http'}://{server}"
        client = MilvusClient(uri, address, database)
    elif rest or folder is not None:
        path = str(Path(rest) if rest else (folder or Path()) / "milvus.db")
        client = MilvusClient(path, path, "", embedded=True)
    else:
        raise ConfigError(
            "'milvus' without a path is for a collection, whose folder it lies in",
            hint="milvus:/path/to/vectors.db, or milvus://HOST:PORT/DATABASE for a server",
        )
    try:
        return MilvusIndex(client, name, dim, metric)
    except BaseException:
        client.close()
        raise
