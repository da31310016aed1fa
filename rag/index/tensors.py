"""Small safetensors files of fitted models: arrays, and in the metadata JSON that says what they are."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from numpy.typing import NDArray

from rag.errors import CollectionError, DamagedFileError, NotFoundError

__all__ = ["Tensors", "read_tensors", "write_tensors"]

T = TypeVar("T")
Tensors: TypeAlias = dict[str, NDArray[Any]]


def write_tensors(path: Path, tensors: Tensors, key: str, head: Mapping[str, Any]) -> None:
    """Write arrays and, under `key`, their head, completely or not at all; the folder is made. CollectionError."""
    from safetensors.numpy import save

    content = save(tensors, {key: json.dumps(head)})
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # a rename is safe only once the folder is on disk
        finally:
            os.close(descriptor)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        hint = "check free space and permissions"
        raise CollectionError(f"cannot write {path}: {error.strerror}", hint=hint) from None


def read_tensors(
    path: Path,
    key: str,
    what: str,
    newest: int,
    made_by: str,
    build: Callable[[Mapping[str, Any], Tensors], T],
) -> T:
    """What `build` makes of the head under `key` and the arrays of a file.

    `what` names such files in messages, `newest` is the largest `format` that is understood, `made_by` the command that
    makes them. Raises NotFoundError, CollectionError for a newer format, and DamagedFileError, also where `build` meets
    a ValueError, KeyError, TypeError or IndexError.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise NotFoundError(f"there is no {what} {str(path)!r}", hint=f"make one with `{made_by}`")
    try:
        with safe_open(path, "numpy") as file:
            head: dict[str, Any] = json.loads(file.metadata()[key])
            tensors: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        if head["format"] > newest:
            raise CollectionError(
                f"{path} has format {head['format']}, this version of modular-rag reads up to {newest}",
                hint="pip install --upgrade modular-rag",
            )
        return build(head, tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        hint = f"make it again with `{made_by}`"
        raise DamagedFileError(f"{path} is no {what}, or damaged: {error}", hint=hint) from None
