"""Types of the native module; the docstrings are those of the modules that use it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
