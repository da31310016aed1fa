"""The last steps of a commit, and what one that did not finish has left behind."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from rag.collection import locks
from rag.collection.database import purge, recall, remember
from rag.collection.manifest import Manifest

__all__ = ["publish", "recover", "sweep"]


def publish(db: sqlite3.Connection, folder: Path, manifest: Manifest) -> None:
    """End the transaction and make this generation, whose files are all on disk, the current one."""
    remember(db, manifest)
    locks.announce(folder, manifest.generation)
    db.commit()
    manifest.write(folder)


def recover(db: sqlite3.Connection, folder: Path, manifest: Manifest) -> None:
    """Remove what a commit that did not finish has left behind."""
    if int(recall(db)["generation"]) > manifest.generation:
        db.execute("BEGIN IMMEDIATE")
        purge(db, "born >", manifest.generation)
        db.execute("UPDATE documents SET died = NULL WHERE died > ?", (manifest.generation,))
        remember(db, manifest)
        db.commit()
    sweep(folder, manifest)


def sweep(folder: Path, manifest: Manifest) -> None:
    """Delete files that the manifest does not name. Readers of older generations have theirs mapped."""
    needed = {file.name for file in manifest.files}
    for path in (folder / "segments").iterdir():
        if f"segments/{path.name}" not in needed:
            path.unlink()
