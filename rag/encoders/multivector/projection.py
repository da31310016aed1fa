"""The layer of a late-interaction checkpoint that turns token states into token vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.encoders.checkpoint import Checkpoint, read_json
from rag.encoders.weights import map_safetensors
from rag.errors import ModelError

__all__ = ["Projection"]

_ACTIVATIONS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, np.float32(0)),
}


@dataclass(frozen=True, eq=False)
class Projection:
    """y = activation(x W^T + b), plus x itself or x R^T where the layer has a residual path.

    `weight` float32[out, in], `bias` float32[out]; `residual` is None, the R float32[out, in], or "same" for x itself.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    activation: str = "Identity"
    residual: NDArray[np.float32] | str | None = None

    @classmethod
    def from_colbert(cls, checkpoint: Checkpoint) -> Projection:
        """The `linear.weight` that ColBERT keeps beside the transformer's weights."""
        return cls(_tensor(_tensors(checkpoint.root), "linear.weight", checkpoint.root))

    @classmethod
    def from_module(cls, folder: Path) -> Projection:
        """A Dense module of sentence-transformers or PyLate."""
        settings = read_json(folder / "config.json") or {}
        tensors = _tensors(folder)
        activation = str(settings.get("activation_function") or "Identity").rsplit(".", 1)[-1]
        if activation not in _ACTIVATIONS:
            raise ModelError(
                f"{str(folder)!r} has the activation {activation!r}, which is not supported",
                hint="supported: " + ", ".join(_ACTIVATIONS),
            )
        weight = _tensor(tensors, "linear.weight", folder)
        residual: NDArray[np.float32] | str | None = None
        if settings.get("use_residual"):
            square = weight.shape[0] == weight.shape[1]
            residual = "same" if square else _tensor(tensors, "residual.weight", folder)
        return cls(weight, tensors.get("linear.bias"), activation, residual)

    @property
    def inputs(self) -> int:
        return int(self.weight.shape[1])

    @property
    def outputs(self) -> int:
        return int(self.weight.shape[0])

    def __call__(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[t, out] of float32[t, in]."""
        projected = states @ self.weight.T
        if self.bias is not None:
            projected += self.bias
        projected = _ACTIVATIONS[self.activation](projected)
        if isinstance(self.residual, str):
            projected = projected + states
        elif self.residual is not None:
            projected = projected + states @ self.residual.T
        return projected


def _tensors(folder: Path) -> dict[str, NDArray[Any]]:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ModelError(
            f"{str(folder)!r} has no model.safetensors",
            hint="weights in pytorch_model.bin are pickled and not read: save the model again as safetensors",
        )
    return map_safetensors(path)


def _tensor(tensors: dict[str, NDArray[Any]], name: str, folder: Path) -> NDArray[np.float32]:
    if name not in tensors:
        raise ModelError(f"{str(folder / 'model.safetensors')!r} has no tensor {name!r}: the projection is missing")
    if tensors[name].ndim != 2:
        raise ModelError(f"tensor {name!r} of {str(folder)!r} has shape {tensors[name].shape}, expected a matrix")
    return tensors[name]
