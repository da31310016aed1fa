"""Types of the native module; the docstrings are those of the modules that use it."""

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

# transformer.cpp
class TransformerEncoder:
    """A BERT-family text encoder. Weights are float32 and stored as PyTorch does: [out, in].

    `isa` chooses kernels out of `isas()`; empty means the best. Wrong shapes, ids and offsets raise ValueError.
    """

    @staticmethod
    def isas() -> list[str]:
        """The instruction sets this CPU has kernels for, best first."""

    def __init__(
        self,
        words: NDArray[np.float32],
        positions: NDArray[np.float32],
        gain: NDArray[np.float32],
        shift: NDArray[np.float32],
        heads: int,
        eps: float,
        isa: str = "",
    ) -> None:
        """`words` [vocabulary, width], `positions` [tokens, width] with the token type's row added, layer norm [width]."""

    def add_layer(self, *weights: NDArray[np.float32]) -> None:
        """Weight and bias, in turn, of: query, key, value, output, its norm, up, down, the last norm."""

    def encode(self, ids: NDArray[np.int32], offsets: NDArray[np.int64], pooling: str, threads: int) -> NDArray[np.float32]:
        """float32[texts, width], unit vectors; text i is ids[offsets[i]:offsets[i + 1]], `pooling` mean or cls."""

    def encode_with_states(
        self,
        ids: NDArray[np.int32],
        offsets: NDArray[np.int64],
        pooling: str,
        threads: int,
        attended: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What `encode` gives, and the last states of all tokens: float32[ids, width], not normalised.

        All tokens of text i attend to its first `attended[i]` tokens; None means to all of them.
        """
# Lexical index (rag/index/lexical.py, rag/index/text.py)

class Tokens:
    def __init__(self, classes: NDArray[np.uint8]) -> None: ...
    def add(self, texts: list[bytes]) -> None: ...
    def words(self) -> list[str]: ...
    def ids(self) -> NDArray[np.uint32]: ...
    def offsets(self) -> NDArray[np.int64]: ...
    def invert(
        self, term_of_word: NDArray[np.int32], terms: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
        """posting_offsets[terms + 1], rows, counts, lengths."""

class Postings:
    def __init__(
        self,
        ids: NDArray[np.int64],
        lengths: NDArray[np.uint32],
        spelling: NDArray[np.uint8],
        term_offsets: NDArray[np.uint64],
        posting_offsets: NDArray[np.uint64],
        rows: NDArray[np.uint32],
        counts: NDArray[Any],
    ) -> None: ...

def merge_postings(
    segments: list[Postings], new_rows: list[NDArray[np.uint32]]
) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint32]]:
    """spelling, term_offsets, posting_offsets, rows, counts."""

def search_postings(
    segments: list[Postings],
    terms: list[bytes],
    query_terms: NDArray[np.uint32],
    query_offsets: NDArray[np.int64],
    k: int,
    filter: NDArray[np.int64] | None,
    deleted: NDArray[np.int64],
    k1: float,
    b: float,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """ids[queries * k], scores[queries * k]."""
from typing_extensions import Buffer

# --- basics: bind_basics.cpp

def isa() -> str: ...
def isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
def crc32c(buffer: Buffer | NDArray[Any], value: int = 0) -> int: ...

# --- vectors: bind_store.cpp

class Filter:
    def __init__(self, ids: NDArray[np.int64]) -> None: ...
    def __len__(self) -> int: ...

def sum_by_centroid(
    vectors: NDArray[np.float32], centroids: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One round of k-means on parts of 8 of vectors [n, parts * 8] with centroids [parts, 256, 8]: the sum of the
    vectors nearest to each, [parts, 256 * 8], and their number, [parts, 256]."""

class VectorStore:
    def __init__(
        self,
        dim: int,
        metric: str,
        codec: str,
        mean: NDArray[np.float32] | None = None,
        base: NDArray[np.float32] | None = None,
        query: NDArray[np.float32] | None = None,
        centroids: NDArray[np.float32] | None = None,
        *,
        finer: bool = True,
    ) -> None: ...
    @property
    def dim(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def live(self) -> int: ...
    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32], threads: int = 0) -> None: ...
    def remove(self, ids: NDArray[np.int64]) -> int: ...
    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]: ...
    def scan(
        self,
        queries: NDArray[np.float32],
        k: int,
        filter: Filter | None = None,
        rerank: int = 0,
        threads: int = 0,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
    def parts(self) -> dict[str, list[NDArray[np.uint8]]]: ...
    def part_sizes(self, n: int) -> dict[str, int]: ...
    def attach(self, n: int, sections: dict[str, NDArray[np.uint8]]) -> None: ...

# --- token vectors: bind_tokens.cpp

class TokenStore:
    @overload
    def __init__(self, dim: int, codec: str) -> None: ...
    @overload
    def __init__(
        self, dim: int, codec: str, base: NDArray[np.float32], centroids: NDArray[np.float32], spread: float
    ) -> None: ...
    @overload
    def __init__(
        self,
        dim: int,
        codec: str,
        mean: NDArray[np.float32],
        base: NDArray[np.float32],
        inverse: NDArray[np.float32],
        slope: float,
        mean_slope: float,
        constant: float,
    ) -> None: ...
    @property
    def dim(self) -> int: ...
    @property
    def documents(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def live(self) -> int: ...
    @property
    def live_tokens(self) -> int: ...
    def add(
        self, ids: NDArray[np.int64], tokens: NDArray[np.float32], offsets: NDArray[np.int64], threads: int = 0
    ) -> None: ...
    def append(self, other: TokenStore, ids: NDArray[np.int64]) -> None:
        """Documents of a store of the same codec, which has learned the same."""
    def remove(self, ids: NDArray[np.int64]) -> int: ...
    def compact(self) -> None: ...
    def vectors(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Tokens [t, dim] and offsets [1, n + 1]."""
    def maxsim(
        self,
        tokens: NDArray[np.float32],
        offsets: NDArray[np.int64],
        k: int,
        candidates: NDArray[np.int64] | None = None,
        filter: NDArray[np.int64] | None = None,
        threads: int = 0,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
    def matches(self, id: int, tokens: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions and scores [1, q]."""
    def parts(self) -> dict[str, list[NDArray[np.uint8]]]: ...
    def part_sizes(self, documents: int, tokens: int) -> dict[str, int]: ...
    def attach(self, documents: int, tokens: int, sections: dict[str, NDArray[np.uint8]]) -> None: ...

# --- documents as sets of centroids: bind_centroids.cpp

class CentroidIndex:
    def __init__(self, centroids: NDArray[np.float32]) -> None: ...
    @property
    def documents(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def live(self) -> int: ...
    def nearest(self, tokens: NDArray[np.float32], threads: int = 0) -> NDArray[np.uint16]:
        """The number of each token's centroid, [1, t]."""
    def add(
        self, ids: NDArray[np.int64], tokens: NDArray[np.float32], offsets: NDArray[np.int64], threads: int = 0
    ) -> None: ...
    def remove(self, ids: NDArray[np.int64]) -> int: ...
    def compact(self) -> None: ...
    def search(
        self,
        tokens: NDArray[np.float32],
        offsets: NDArray[np.int64],
        k: int,
        filter: NDArray[np.int64] | None = None,
        threads: int = 0,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
    def score(
        self,
        tokens: NDArray[np.float32],
        offsets: NDArray[np.int64],
        candidates: NDArray[np.int64],
        threads: int = 0,
    ) -> NDArray[np.float32]: ...
    def parts(self) -> dict[str, list[NDArray[np.uint8]]]: ...
    def part_sizes(self, documents: int, rows: int) -> dict[str, int]: ...
    def attach(self, documents: int, rows: int, sections: dict[str, NDArray[np.uint8]]) -> None: ...

# --- graphs: bind_graph.cpp

class Graph:
    def __init__(
        self,
        store: VectorStore,
        degree: int = 32,
        window: int = 100,
        alpha: float = 1.2,
        passes: int = 1,
        seed: int = 0,
        thinning: int = 0,
        filled: bool = False,
    ) -> None: ...
    @property
    def linked(self) -> int: ...
    @property
    def longest(self) -> float: ...
    def wait(self) -> None: ...
    def grow(self, hold_back: int = 0, order: NDArray[np.uint32] | None = None, threads: int = 0) -> None: ...
    def held(self) -> NDArray[np.int64]: ...
    def consolidate(self, threads: int = 0) -> None: ...
    def walk(
        self,
        queries: NDArray[np.float32],
        k: int,
        filter: Filter | None = None,
        window: int = 64,
        slack: float = ...,
        expected: int = 0,
        rerank: int = 0,
        waiting: bool = True,
        threads: int = 0,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], float]:
        """Ids and scores, and how many rows were expanded for a query, on average."""
    def levels(self) -> list[tuple[NDArray[np.uint32], NDArray[np.uint32]]]:
        """Of each level, from the ground up: its rows, none on the ground, and their links [places, room]."""
    def attach(
        self, levels: list[tuple[NDArray[np.uint32], NDArray[np.uint32]]], linked: int, longest: float
    ) -> None: ...

# --- fixed dimensional encodings: bind_fde.cpp

class FixedDimensionalEncoder:
    def __init__(
        self,
        planes: NDArray[np.float32],
        signs: NDArray[np.float32] | None = None,
        sketch: NDArray[np.int32] | None = None,
        final_size: int = 0,
    ) -> None:
        """`planes` [repetitions, k_sim, dim]; `signs` [repetitions, d_proj, dim]; of `sketch` [width], i adds a number to
        number i of the final ones, and -1 - i takes it away."""
    def encode(
        self,
        tokens: NDArray[np.float32],
        offsets: NDArray[np.int64],
        documents: bool,
        fill: bool = True,
        threads: int = 0,
    ) -> NDArray[np.float32]: ...

# --- weighted directed graphs: bind_network.cpp

def rows_of_edges(
    nodes: int,
    sources: NDArray[np.int64],
    targets: NDArray[np.int64],
    weights: NDArray[np.float32] | None = None,
    both_ways: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Offsets [nodes + 1], targets and weights of the rows of a `CsrGraph`; weights of equal edges are added."""

class CsrGraph:
    """Weighted directed graph that holds these arrays; of node u, the edges are targets[offsets[u] : offsets[u + 1]]."""

    def __init__(
        self, offsets: NDArray[np.int64], targets: NDArray[np.int32], weights: NDArray[np.float32] | None = None
    ) -> None: ...
    @property
    def nodes(self) -> int: ...
    @property
    def edges(self) -> int: ...
    @property
    def symmetric(self) -> bool:
        """Whether every edge is there in both directions, with the same weight."""
    def pagerank_top(
        self,
        seed_offsets: NDArray[np.int64],
        seeds: NDArray[np.int64],
        seed_weights: NDArray[np.float32],
        k: int,
        alpha: float,
        epsilon: float,
        tolerance: float,
        iterations: int,
        budget: int,
        among: NDArray[np.uint8] | None = None,
        threads: int = 0,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """Nodes [queries, k] and scores, best first, -1 and 0 behind the last; and of each query [pushes, iterations]."""
    def pagerank_all(
        self,
        seed_offsets: NDArray[np.int64],
        seeds: NDArray[np.int64],
        seed_weights: NDArray[np.float32],
        alpha: float,
        epsilon: float,
        tolerance: float,
        iterations: int,
        budget: int,
        threads: int = 0,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores [queries, nodes], and of each query [pushes, iterations]."""
    def ball(
        self, seeds: NDArray[np.int64], hops: int, budget: int, fanout: int = 0
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Nodes in the order they were reached, steps from a seed, and from which node (-1: a seed)."""
    def components(self) -> NDArray[np.int32]: ...
    def distances(self, sources: NDArray[np.int64], threads: int = 0) -> NDArray[np.int32]:
        """Steps [sources, nodes], -1 where none leads."""
    def communities(
        self, resolution: float = 1.0, rounds: int = 2, refine: bool = True, seed: int = 0
    ) -> tuple[NDArray[np.int32], float]:
        """Of each node its community, and the modularity; InputError for a graph that is not symmetric."""
    def mean_of_neighbours(self, rows: NDArray[np.float32], threads: int = 0) -> NDArray[np.float32]:
        """[nodes, d] of rows [nodes, d]: by weight; zero for nodes without edges."""
