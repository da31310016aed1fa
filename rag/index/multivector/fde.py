"""Fixed dimensional encodings: a set of token vectors becomes one vector that any index can search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag import _native
from rag.errors import ConfigError, InputError
from rag.index.inputs import check_count
from rag.index.multivector.inputs import as_token_sets

__all__ = ["FixedDimensionalEncoding"]

MOST_PLANES = 12  # 4,096 buckets
MOST_NUMBERS = 1 << 24
"""In an encoding, before the final projection."""

_PLANES, _SIGNS, _SKETCH = range(3)  # what is drawn, each from a stream of its own


class FixedDimensionalEncoding:
    """Token sets as single vectors, whose inner product comes near `repetitions` times their Chamfer similarity.

    Chamfer similarity (MaxSim) is the sum, over the query's tokens, of the best inner product with a token of the
    document. `k_sim` random planes part space into 2^k_sim buckets (0 to 12). A query's tokens are summed up in each
    bucket, those of a document averaged, and with `fill_empty` an empty bucket of a document takes the token that
    the fewest planes part from it, the first of several. `d_proj` random projections shorten each bucket's vector
    (1 to `dim`; as many as `dim` leave it as it is). All that is done `repetitions` times with other planes, and the
    results stand side by side: repetitions * 2^k_sim * d_proj numbers. `final_dim`: a count sketch folds these to so
    many. Search by inner product, never by cosine: the lengths of encodings matter.

    Nothing is learned. The random numbers depend on `seed` alone, so equal parameters give equal encodings, to the bit,
    on every machine and with any number of threads. Larger encodings come nearer to the truth: from 20 repetitions, 4
    planes and 16 projections (5,120 numbers) on they rank well; a document with fewer tokens than buckets gains by
    `fill_empty`, long ones do not. Raises InputError for parameters out of range.
    MUVERA: Dhulipala et al., NeurIPS 2024 (section 2; the final projection: section 3.1, as a count sketch).
    """

    def __init__(
        self,
        dim: int,
        k_sim: int = 4,
        d_proj: int = 16,
        repetitions: int = 20,
        fill_empty: bool = True,
        final_dim: int | None = None,
        seed: int = 42,
    ) -> None:
        width = MOST_NUMBERS
        for name, value, low, high in (
            ("dim", dim, 1, 65536),
            ("k_sim", k_sim, 0, MOST_PLANES),
            ("repetitions", repetitions, 1, 1000),
            ("d_proj", d_proj, 1, dim),
            ("final_dim", final_dim, 1, width),
            ("seed", seed, 0, 2**63 - 1),
        ):
            if name == "final_dim" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
                hint = "more projections than a token has numbers gain nothing" if name == "d_proj" else None
                raise InputError(f"{name} is {value!r}, expected a whole number from {low} to {high}", hint=hint)
        if not isinstance(fill_empty, bool):
            raise InputError(f"fill_empty is {fill_empty!r}, expected True or False")
        width = int(repetitions) * int(d_proj) << int(k_sim)
        if width > MOST_NUMBERS:
            raise InputError(
                f"an encoding would have {width} numbers, at most {MOST_NUMBERS} can be", hint="lower k_sim or d_proj"
            )
        self._form: dict[str, Any] = {
            "dim": int(dim),
            "k_sim": int(k_sim),
            "d_proj": int(d_proj),
            "repetitions": int(repetitions),
            "fill_empty": fill_empty,
            "final_dim": None if final_dim is None else int(final_dim),
            "seed": int(seed),
        }
        self._size = width if final_dim is None else int(final_dim)
        planes, signs, sketch = drawn_matrices(
            **{name: self._form[name] for name in self._form if name != "fill_empty"}
        )
        self._native = _native.FixedDimensionalEncoder(planes, signs, sketch, final_dim or 0)
        self._check = 0
        for matrix in (planes, signs, sketch):
            if matrix is not None:
                self._check = _native.crc32c(matrix.reshape(-1).view(np.uint8), self._check)

    @property
    def dim(self) -> int:
        """Numbers a token."""
        return int(self._form["dim"])

    @property
    def size(self) -> int:
        """Numbers an encoding."""
        return self._size

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._form.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FixedDimensionalEncoding) and self.describe() == other.describe()

    def __hash__(self) -> int:
        return hash(tuple(self._form.values()))

    def encode_queries(
        self, tokens: NDArray[np.float32], offsets: NDArray[np.int64], *, threads: int = 0
    ) -> NDArray[np.float32]:
        """Encodings float32[m, size] of m queries, query i being tokens[offsets[i]:offsets[i + 1]].

        `tokens` float32[t, dim] count as they are: the length of one is its weight. `offsets` int64[m + 1]; `threads` 0
        means all cores. Raises InputError for a query without tokens, NaN or infinity, a wrong dimension, and offsets
        that do not fit.
        """
        return self._encode(tokens, offsets, False, threads)

    def encode_documents(
        self, tokens: NDArray[np.float32], offsets: NDArray[np.int64], *, threads: int = 0
    ) -> NDArray[np.float32]:
        """Encodings float32[n, size] of n documents, whose tokens count at unit length.

        Takes and raises what `encode_queries` does, and refuses a token of zeros.
        """
        return self._encode(tokens, offsets, True, threads)

    def _encode(self, tokens: Any, offsets: Any, documents: bool, threads: int) -> NDArray[np.float32]:
        matrix, places = as_token_sets(tokens, offsets, self.dim)
        return self._native.encode(
            matrix, places, documents, bool(self._form["fill_empty"]), check_count(threads, "threads")
        )

    def describe(self) -> dict[str, Any]:
        """All parameters, and a checksum of the random numbers: JSON values, for a manifest."""
        return {**self._form, "crc32c": self._check}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> FixedDimensionalEncoding:
        """The encoding that `describe` was called on.

        Raises ConfigError for missing, unknown and impossible parameters, and when this release would draw other
        random numbers, with which queries and documents would no longer fit together.
        """
        rest = dict(description)
        check = rest.pop("crc32c", None)
        try:
            if rest.keys() != cls(1, 0, 1, 1)._form.keys():
                raise InputError(f"has {', '.join(map(repr, rest)) or 'nothing'}")
            made = cls(**rest)
        except InputError as error:
            raise ConfigError(f"the description of a fixed dimensional encoding is wrong: {error.message}") from error
        if made._check != check:
            raise ConfigError(
                f"the random numbers of {made} have checksum {made._check}, not {check!r} as described",
                hint="encode the documents anew",
            )
        return made


def drawn_matrices(
    dim: int, k_sim: int, d_proj: int, repetitions: int, final_dim: int | None, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.int32] | None]:
    """Planes float32[repetitions, k_sim, dim], signs float32[repetitions, d_proj, dim] or None where nothing is
    projected, and the sketch int32[width] or None; see `_native.pyi`.

    A component of a plane is a sum of twelve uniform numbers, of variance 1 and as good as Gaussian: made of whole
    numbers, it is the same everywhere, which logarithms and cosines are not. Fewer repetitions draw the first ones.
    """
    words = _words(seed, _PLANES, 3 * repetitions * k_sim * dim).view(np.uint16).reshape(repetitions, k_sim, dim, 12)
    planes = ((words.sum(axis=3, dtype=np.int32) - 6 * 65535) / np.float32(65536)).astype(np.float32)
    signs = None
    if d_proj < dim:
        count = repetitions * d_proj * dim
        bits = np.unpackbits(_words(seed, _SIGNS, -(-count // 64)).view(np.uint8), count=count, bitorder="little")
        signs = (bits.astype(np.float32) * 2 - 1).reshape(repetitions, d_proj, dim)
    sketch = None
    if final_dim is not None:
        halves = _words(seed, _SKETCH, repetitions * d_proj << k_sim)
        place = ((halves >> np.uint64(32)) * np.uint64(final_dim) >> np.uint64(32)).astype(np.int32)
        sketch = np.where(halves & np.uint64(1), ~place, place)
    return planes, signs, sketch


def _words(seed: int, stream: int, count: int) -> NDArray[np.uint64]:
    """Random bits; NumPy promises that Philox gives the same ones for ever."""
    source = np.random.SeedSequence(seed, spawn_key=(stream,))
    return np.asarray(np.random.Philox(source).random_raw(count), dtype=np.uint64)
