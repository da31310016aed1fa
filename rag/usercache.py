"""Where this user's cached files lie, and digests of files that are computed once."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["cache_dir", "file_digest", "sha256"]


def cache_dir() -> Path:
    """The folder for this user's cached files: environment `RAG_CACHE`, else the platform's own place."""
    if chosen := os.environ.get("RAG_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "modular-rag"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "modular-rag"


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_digest(path: Path, compute: Callable[[Path], str] = sha256) -> str:
    """`compute(path)`, remembered in the user cache until the file's size or modification time changes.

    A cache that cannot be read or written only costs time: the digest is computed again.
    """
    path = path.resolve()
    stat = path.stat()
    key = hashlib.sha256(f"{compute.__module__}.{compute.__qualname__}\0{path}".encode()).hexdigest()
    entry = cache_dir() / "digests" / f"{key[:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(entry.read_text(encoding="utf-8"))
        if known["size"] == stat.st_size and known["mtime_ns"] == stat.st_mtime_ns:
            return str(known["digest"])
    digest = compute(path)
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=entry.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "digest": digest}, file)
        os.replace(temporary, entry)
    return digest
