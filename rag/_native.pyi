"""The compiled engine."""

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
