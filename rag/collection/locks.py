"""Who may write (one) and which generations are being read (any number), told by advisory file locks.

The system drops these locks when a process ends, however it ends, so nothing stale is left to clean up by hand.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rag.errors import CollectionError, LockedError

__all__ = ["GenerationLock", "announce", "held_generations", "writing"]

_POLL = 0.02


@contextmanager
def writing(folder: Path, wait: float) -> Iterator[None]:
    """Be the only writer. LockedError when another one does not finish within `wait` seconds."""
    path = folder / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise CollectionError(
            f"{folder} cannot be written to: {error.strerror}", hint="check the owner and the rights of the folder"
        ) from error
    try:
        deadline = time.monotonic() + wait
        while not _locked(descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip() or "another process"
                raise LockedError(
                    f"{folder} is being written by {holder}", hint="wait until it has finished, or pass wait=SECONDS"
                )
            time.sleep(_POLL)
        os.ftruncate(descriptor, 0)
        with suppress(OSError):  # a full disk must not stop deletions; the name is only for the message above
            os.pwrite(descriptor, f"process {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def announce(folder: Path, generation: int) -> None:
    """Make the file that readers of this generation lock."""
    (folder / "readers").mkdir(exist_ok=True)
    _reader_file(folder, generation).touch()


class GenerationLock:
    """Tells writers that somebody reads this generation, until the object is gone."""

    def __init__(self, folder: Path, generation: int) -> None:
        path = _reader_file(folder, generation)
        try:
            # Writers make this file. Where it is missing, the folder was copied without it or is older than what a
            # writer keeps; the caller looks at the manifest again to tell.
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return
        weakref.finalize(self, os.close, descriptor)
        _locked(descriptor, fcntl.LOCK_SH)


def held_generations(folder: Path, current: int) -> list[int]:
    """The generations before `current` that somebody still reads; forgets the others."""
    held = []
    for path in sorted((folder / "readers").glob("*")):
        generation = int(path.name) if path.name.isdigit() else current
        if generation == current:
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if _locked(descriptor, fcntl.LOCK_EX):
                path.unlink(missing_ok=True)
            else:
                held.append(generation)
        finally:
            os.close(descriptor)
    return held


def _reader_file(folder: Path, generation: int) -> Path:
    return folder / "readers" / f"{generation:010d}"


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
