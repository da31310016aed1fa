"""Keys and values of one head in host memory, of which a query attends to those that matter to it."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np

from rag.errors import ConfigError, did_you_mean
from rag.index import GraphIndex, ScanIndex
from rag.kvcache.attention.partial import Logits, Partial, attend_to

__all__ = ["RETRIEVERS", "IndexRetriever", "PageRetriever", "Retriever", "as_retriever"]

_SAMPLE = 1024
"""Queries that an index is fitted to, the last ones."""
_WALKED = 96
"""So many times as many keys as a walk expands cost as much to scan."""


class Retriever(Protocol):
    """Keys and values of one KV head, tensors on the host, as attention sees them (after RoPE)."""

    def __len__(self) -> int:
        """Keys held."""
        ...

    def add(self, keys: Any, values: Any) -> None:
        """More of them, float[n, d] each."""
        ...

    def attend(self, queries: Any, logits: Logits) -> Partial:
        """Attention of queries float32[rows, d] to the keys that were found for them."""
        ...


class IndexRetriever:
    """The keys of the largest inner products with a query, by the native graph index (RetrievalAttention).

    Args:
        queries: float32[m, d] that were asked of these keys, as links are made of them: queries are unlike keys, and
            between keys that are near to each other a walk gets lost (`GraphIndex.project`).
        k: keys for each query, and how many a walk expands (at least 32); all of them if there are fewer, which is
            exact.

    D. Liu et al., arXiv:2409.10516. Up to about 100 k keys the index is scanned, which is cheaper there than a walk and
    misses nothing.
    """

    name: ClassVar[str] = "index"

    def __init__(self, queries: Any, k: int = 100) -> None:
        if k < 1:
            raise ConfigError(f"k is {k} keys to attend to, expected 1 or more")
        self.k, self._effort = k, max(k, 32)
        self._queries = _host(queries)[-_SAMPLE:]
        self._index: ScanIndex | GraphIndex = ScanIndex(self._queries.shape[1], "ip", "float32")
        self._values: Any = None

    def __len__(self) -> int:
        return len(self._index)

    def add(self, keys: Any, values: Any) -> None:
        import torch

        vectors, first = _host(keys), len(self)
        if not first and len(vectors) > _WALKED * self._effort:
            self._index = GraphIndex(vectors.shape[1], "ip", "float32", threads=1)
        self._index.add(np.arange(first, first + len(vectors)), vectors)
        if isinstance(self._index, GraphIndex) and not first:
            self._index.project(self._queries)
        self._values = values.clone() if self._values is None else torch.cat([self._values, values])

    def attend(self, queries: Any, logits: Logits) -> Partial:
        import torch

        asked, wanted = _host(queries), min(self.k, len(self))
        if isinstance(self._index, GraphIndex) and wanted < len(self):
            found = self._index.search(asked, wanted, effort=self._effort, threads=1)
        else:
            found = self._index.search(asked, wanted, threads=1)
        values = self._values[torch.from_numpy(found.ids)]
        part = attend_to(logits(torch.from_numpy(found.scores))[:, None], values)
        return Partial(part.output[:, 0], part.peak[:, 0], part.total[:, 0])


class PageRetriever:
    """Whole pages of keys, by an upper bound of the inner product with any key of a page (LServe, arXiv:2502.14866).

    Each run of 16 keys keeps the least and the largest number in every dimension (Quest, arXiv:2406.10774); a page is
    four runs and counts as the best of them, for the best of the queries that come together. `k` keys are attended
    to, in the best pages: so many whole ones, at least one.
    """

    name: ClassVar[str] = "pages"
    run, page = 16, 64

    def __init__(self, k: int = 1024) -> None:
        if k < 1:
            raise ConfigError(f"k is {k} keys to attend to, expected 1 or more")
        self.k = k
        self._keys: Any = None
        self._values: Any = None
        self._low: Any = None
        self._high: Any = None

    def __len__(self) -> int:
        return 0 if self._keys is None else len(self._keys)

    def add(self, keys: Any, values: Any) -> None:
        import torch

        keys = keys.float()
        if self._keys is not None:
            keys, values = torch.cat([self._keys, keys]), torch.cat([self._values, values])
        self._keys, self._values = keys.clone(), values.clone()
        short = -len(keys) % self.page
        runs = torch.cat([keys, keys[-1:].expand(short, -1)]).unflatten(0, (-1, self.run))  # the last page is filled up
        self._low, self._high = runs.amin(1), runs.amax(1)

    def bounds(self, queries: Any) -> Any:
        """What no inner product of queries float32[rows, d] with a key of a run exceeds, float32[rows, runs]."""
        return queries.clamp_min(0) @ self._high.T + queries.clamp_max(0) @ self._low.T

    def attend(self, queries: Any, logits: Logits) -> Partial:
        import torch

        scores = self.bounds(queries).amax(0).unflatten(0, (-1, self.page // self.run)).amax(-1)
        pages = scores.topk(min(max(1, self.k // self.page), len(scores))).indices
        chosen = (pages[:, None] * self.page + torch.arange(self.page)).flatten()
        chosen = chosen[chosen < len(self)]
        return attend_to(logits(queries @ self._keys[chosen].T), self._values[chosen])


RETRIEVERS = ("index", "pages")


def as_retriever(method: str, queries: Any, **settings: Any) -> Retriever:
    """A retriever by its name with these settings; ConfigError for an unknown name."""
    if method == IndexRetriever.name:
        return IndexRetriever(queries, **settings)
    if method == PageRetriever.name:
        return PageRetriever(**settings)
    raise ConfigError(f"no way {method!r} to find keys", hint=did_you_mean(method, RETRIEVERS))


def _host(tensor: Any) -> Any:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())
