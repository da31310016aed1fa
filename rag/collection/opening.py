"""Opening the newest generation of a collection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rag.collection import locks
from rag.collection.manifest import Manifest
from rag.collection.repair import check_database, restored_manifest
from rag.collection.segments import Segment
from rag.collection.snapshot import Connections, Snapshot
from rag.errors import DamagedFileError, NotFoundError

__all__ = ["newest_snapshot"]


def newest_snapshot(
    folder: Path, connections: Connections, *, known: Sequence[Segment] = (), repair: bool = False
) -> Snapshot:
    """The newest generation, checked; with `repair`, as much of it as can be had, unchecked."""
    while True:
        try:
            manifest = Manifest.read(folder)
        except (DamagedFileError, NotFoundError):
            if not repair:
                raise
            manifest = restored_manifest(folder, connections)
        snapshot = Snapshot(folder, manifest, locks.GenerationLock(folder, manifest.generation), connections)
        if repair:
            return snapshot
        try:
            check_database(folder, manifest, connections)
            snapshot.segments(known)
            problem = None
        except (DamagedFileError, NotFoundError) as error:
            problem = error
        # A writer that went on in the meantime may have removed files, or rows before the lock was taken.
        if Manifest.read(folder).generation == manifest.generation:
            if problem is not None:
                raise problem
            return snapshot
