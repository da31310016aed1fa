"""Models that lie in the folder of the collection that they were made for, or in a file of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from rag.collection import Collection
from rag.errors import ConfigError, EncoderMismatchError
from rag.operators.local_file import local_file

__all__ = ["KeptModels"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SUFFIX = ".safetensors"


M = TypeVar("M")


class KeptModels(Generic[M]):
    """One kind of models: what messages call it, the folder for it in a collection, how a file is read, and the command
    that makes one. A model stays loaded as long as its file is the same."""

    def __init__(self, what: str, folder: str, read: Callable[[Path], M], made_by: str) -> None:
        self._what, self._folder, self._read, self._made_by = what, folder, read, made_by

        @lru_cache(8)
        def load(path: Path, changed: int, size: int, inode: int) -> M:
            return read(path)

        self._load = load

    def path(self, name: str, collection: Collection) -> Path:
        """The file of the model of this name in a collection; ConfigError for what is no name."""
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} is no name of a {self._what}",
                hint=f"letters, digits, - and _; or a file that ends {_SUFFIX}",
            )
        return collection.path / self._folder / (name + _SUFFIX)

    def found(self, name: str, collection: Collection) -> tuple[Path, M]:
        """The model of this name in the collection, or in this .safetensors file below the working directory, with its
        file. Raises NotFoundError, DamagedFileError, ConfigError."""
        path = local_file(name, self._what) if name.endswith(_SUFFIX) else self.path(name, collection)
        try:
            state = path.stat()
        except FileNotFoundError:
            return path, self._read(path)  # says what to do
        return path, self._load(path, state.st_mtime_ns, state.st_size, state.st_ino)

    def check(self, encoder: str, path: Path, collection: Collection) -> None:
        """EncoderMismatchError unless a model in this file is made for the collection's vectors, by the fingerprint of
        its encoder."""
        if encoder != collection.encoder_fingerprint:
            raise EncoderMismatchError(
                f"the {self._what} {path} was fitted to an encoder with fingerprint {encoder[:12]}, the vectors of "
                f"{collection.path} were made by one with {collection.encoder_fingerprint[:12]}",
                hint=f"{self._made_by} {collection.path}",
            )
