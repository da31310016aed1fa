"""Search by scanning every vector, in the native engine."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rag.index.filter import IdFilter, prepared
from rag.index.inputs import as_vectors, check_count, check_k
from rag.index.native import Codec, NativeIndex
from rag.index.protocol import Matches, Metric

__all__ = ["ScanIndex"]


class ScanIndex(NativeIndex):
    """A `VectorIndex` that scores every vector which passes the filter, so that nothing is ever missed.

    `dim` 1 to 65536; `metric` "cosine", "ip" or "l2"; `codec` as listed at `Codec`.
    Scores are those of the stored numbers, in the finer copy where there are two. Then the first pass decides by
    approximate scores which vectors are ranked by the finer ones: `rerank` of them. Without `finer` there is the short
    copy alone, for candidates that something else ranks again.
    LVQ, RaBitQ, LeanVec and PQ learn from the first vectors that are added, or from what `learn` is given before.
    Safe to use from several threads; searches run side by side.
    Under cosine, vectors are stored at unit length, and a vector or query of zeros is refused.
    """

    kind: ClassVar[str] = "scan"

    def __init__(self, dim: int, metric: Metric = "cosine", codec: Codec = "float32", *, finer: bool = True) -> None:
        super().__init__(dim, metric, codec, finer)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        filter: IdFilter | NDArray[np.int64] | None = None,
        rerank: int = 0,
        threads: int = 0,
    ) -> Matches:
        """The k nearest for each query float32[q, dim]: ids int64[q, k] and scores float32[q, k], best first.

        With `filter` (allowed ids int64[m], sorted and unique; unknown ones are passed over) among those only.
        `rerank`: how many of a first pass are ranked by the finer copy, where the codec keeps one (at least k; more
        find more and take longer); 0 for what suits the codec: leanvec 10k + 50, int8 k + max(32, k).
        `threads` 0 means all cores. The result depends neither on the number of threads nor on the other queries.
        Raises InputError for NaN or infinity, a wrong dimension, k < 1, or a query of zeros under cosine, and
        DamagedFileError when the file it was opened from is damaged: the first search checks what `open` did not.
        """
        matrix = as_vectors(queries, self.dim, "queries")
        return Matches(
            *self._checked().scan(
                matrix, check_k(k), prepared(filter), check_count(rerank, "rerank"), check_count(threads, "threads")
            )
        )
