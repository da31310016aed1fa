"""Tensors of a safetensors file as arrays over the mapped file: nothing is read until it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import DamagedFileError, ModelError

__all__ = ["map_safetensors"]

_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}


def map_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file by name; float32 ones share its memory map, 16-bit floats are widened to float32.

    Raises DamagedFileError when the file is shorter than its header says, ModelError for a dtype that is not known.
    Format: https://huggingface.co/docs/safetensors (header length as uint64, JSON header, data).
    """
    try:
        data = np.memmap(path, np.uint8, "r")
        size = int(data[:8].view("<u8")[0])
        header: dict[str, Any] = json.loads(bytes(data[8 : 8 + size]))
        header.pop("__metadata__", None)
        return {name: _tensor(data[8 + size :], name, entry) for name, entry in header.items()}
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise DamagedFileError(
            f"{str(path)!r} is damaged: {error}", hint="download or install the model again"
        ) from None


def _tensor(data: NDArray[np.uint8], name: str, entry: dict[str, Any]) -> NDArray[Any]:
    kind = entry["dtype"]
    if kind not in _DTYPES:
        raise ModelError(f"tensor {name!r} has dtype {kind}, which is not supported")
    begin, end = entry["data_offsets"]
    if end > len(data):
        raise ValueError(f"tensor {name!r} ends at byte {end} of {len(data)}")
    tensor = data[begin:end].view(_DTYPES[kind]).reshape(entry["shape"])
    if kind == "BF16":  # the upper half of a float32
        return (tensor.astype(np.uint32) << 16).view(np.float32)
    return tensor.astype(np.float32) if kind == "F16" else tensor
