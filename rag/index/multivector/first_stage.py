"""One vector a document, so that an ordinary index finds candidates for late interaction."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError, did_you_mean
from rag.index.files import SectionFile
from rag.index.filter import IdFilter
from rag.index.graph import GraphIndex
from rag.index.inputs import as_vectors
from rag.index.multivector.fde import FixedDimensionalEncoding
from rag.index.native import Codec
from rag.index.protocol import Matches
from rag.index.scan import ScanIndex

__all__ = ["FirstStage", "Generator", "means"]

Generator: TypeAlias = Literal["mean", "fde", "given"]
"""mean: the mean of the tokens, at unit length. fde: a fixed dimensional encoding (MUVERA). given: vectors that the
caller hands in, such as the encoder's own for a whole text."""


class FirstStage:
    """An index of one vector a document by inner product, and how these are made of tokens.

    `dim`: numbers a token. `vector_dim`: numbers a vector, with "given". `codec` None: pq for fixed dimensional
    encodings, whose thousands of numbers matter much alike, and leanvec4 for others. `links`: a `GraphIndex`, else a
    `ScanIndex`.
    """

    def __init__(
        self,
        dim: int,
        generator: Generator,
        encoding: FixedDimensionalEncoding | None = None,
        vector_dim: int | None = None,
        codec: Codec | None = None,
        links: bool = True,
    ) -> None:
        if generator not in get_args(Generator):
            hint = did_you_mean(str(generator), get_args(Generator))
            raise InputError(f"there is no generator {generator!r}", hint=hint)
        if (vector_dim is not None) != (generator == "given"):
            raise InputError(f"vector_dim is {vector_dim!r} with generator {generator!r}", hint="it goes with 'given'")
        if encoding is not None and generator != "fde":
            raise InputError(f"there is an encoding, and the generator is {generator!r}", hint="it goes with 'fde'")
        if generator == "fde" and encoding is None:
            encoding = FixedDimensionalEncoding(dim, d_proj=min(16, dim))
        if encoding is not None and encoding.dim != dim:
            raise InputError(f"the encoding is of tokens of {encoding.dim} numbers, not {dim}")
        self.dim = dim
        self.generator: Generator = generator
        self.encoding = encoding
        size = encoding.size if encoding is not None else dim if vector_dim is None else vector_dim
        suited: Codec = "pq" if generator == "fde" else "leanvec4"
        kind = GraphIndex if links else ScanIndex
        # MaxSim ranks again what is found: the finer copy of a vector, most of its bytes, need not be there.
        self.index: GraphIndex | ScanIndex = kind(size, "ip", suited if codec is None else codec, finer=False)

    def vectors_of(
        self, tokens: NDArray[np.float32], offsets: NDArray[np.int64], given: Any, queries: bool, threads: int
    ) -> NDArray[np.float32]:
        """Vectors float32[n, size] of token sets, or those given, float32[n, vector_dim], checked."""
        if (given is not None) != (self.generator == "given"):
            raise InputError(
                f"there are {'no ' if given is None else ''}vectors, and the generator is {self.generator!r}",
                hint="hand in vectors= to add and search with generator 'given', and only then",
            )
        if given is not None:
            matrix = as_vectors(given, self.index.dim)
            if len(matrix) != len(offsets) - 1:
                raise InputError(f"{len(matrix)} vectors for {len(offsets) - 1} token sets")
            return matrix
        if self.encoding is None:
            return means(tokens, offsets)
        encode = self.encoding.encode_queries if queries else self.encoding.encode_documents
        return encode(tokens, offsets, threads=threads)

    def search(
        self, vectors: NDArray[np.float32], budget: int, filter: IdFilter | None, recall: float, threads: int
    ) -> Matches:
        """The nearest `budget` documents of each query."""
        if isinstance(self.index, GraphIndex):
            return self.index.search(vectors, budget, filter=filter, recall=recall, threads=threads)
        return self.index.search(vectors, budget, filter=filter, threads=threads)

    def attach(self, file: SectionFile) -> None:
        """Take over the index that a file holds."""
        index = type(self.index)._described(file.meta)
        if (index.dim, index.metric) != (self.index.dim, self.index.metric):
            raise InputError(f"vectors of {index.dim} numbers under {index.metric!r} are not of these documents")
        index._attach(file)
        self.index = index


def means(tokens: NDArray[np.float32], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
    """The direction of the mean of each set, float32[n, dim], of unit length; zeros where tokens cancel out."""
    if len(offsets) < 2:
        return np.empty((0, tokens.shape[1]), np.float32)
    sums = np.add.reduceat(tokens, offsets[:-1], axis=0)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return np.asarray(sums / lengths, dtype=np.float32)
