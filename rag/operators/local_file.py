"""Files that a setting may name: those below the working directory, so that a YAML file cannot reach elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from rag.errors import ConfigError, NotFoundError

__all__ = ["local_file", "local_folder"]


def local_file(name: str, what: str) -> Path:
    """The file `name` below the working directory, or below the folder in RAG_FILES where that is set.

    `what` names the file's part in messages. Raises ConfigError when the name, or a link, leads out of that folder,
    NotFoundError when there is no such file.
    """
    path = _below(name, what)
    if not path.is_file():
        raise NotFoundError(f"there is no {what} {str(path)!r}")
    return path


def local_folder(name: str, what: str) -> Path:
    """The folder `name` at the same place, made when it is not there. Raises ConfigError as `local_file` does."""
    path = _below(name, what)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{what} {name!r} cannot be made: {error.strerror}") from None
    return path


def _below(name: str, what: str) -> Path:
    root = Path(os.environ.get("RAG_FILES") or ".").resolve()
    path = (root / Path(name).expanduser()).resolve()
    if not path.is_relative_to(root):
        raise ConfigError(
            f"{what} {name!r} is not below {str(root)!r}",
            hint="put it there, or set RAG_FILES to the folder that such files may be in",
        )
    return path
