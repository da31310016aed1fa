"""Named entries in one folder that several processes share: a file each, no list of them, a lock for who makes room."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rag._native import crc32c
from rag.errors import ConfigError, InputError
from rag.kvcache.entry import (
    Bytes,
    Header,
    Unreadable,
    begin_reading,
    read_data,
    read_head,
    read_header,
    write_entry,
    write_usage,
)
from rag.kvcache.eviction import Eviction, Usage, benefit, policy_of

__all__ = ["Directory"]

log = logging.getLogger("rag.kvcache")
T = TypeVar("T")

_NAME = re.compile(r"[0-9a-f]{40}\.states")
_TEMPORARY = re.compile(r"new-[a-z0-9_]{8}")
_LOCK = "lock"
_LEDGER = struct.Struct("<QdI")  # bytes, age, CRC of both
_SLACK = 16  # where room is made, one part in so many of the budget is freed at once


@dataclass(slots=True)
class _Ledger:
    """What the lock's file tells: bytes held or promised, at least; and the age, the benefit of what went last."""

    nbytes: int
    age: float


class Stored(NamedTuple):
    """A file that is whole as far as its header tells."""

    name: str
    usage: Usage


class Directory:
    """Entries (a head of JSON values, and arrays of bytes) by name, within a budget of bytes for all processes.

    Whoever reads takes no lock: a file appears complete under its name by a rename, never changes but for the record
    of its use, and can be read to its end when it has been deleted. Whoever writes first promises the bytes under the
    lock, which the system releases when a process dies, and makes room there; it also renames there, so that the
    folder stands still for who holds the lock. The sum of bytes in the lock's file only spares looking at all files:
    where it is lost, or too high since a writer died, they are looked at.

    Nothing is synced to the disk: what a power cut has torn fails its checksum. Names are 40 hexadecimal digits. Other
    files in the folder are left alone.
    """

    def __init__(self, path: Path, budget: int, eviction: Eviction = "benefit") -> None:
        if budget < 0:
            raise InputError(f"the budget of a store is {budget} bytes, expected 0 or more")
        self.path = path
        self.budget = budget
        self._priority = policy_of(eviction)
        self._warned = False
        try:
            path.mkdir(parents=True, exist_ok=True)
            with self._locked() as ledger:
                self._survey(ledger)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot hold a cache: {error.strerror}", hint="name a folder that you may write to"
            ) from error

    @property
    def nbytes(self) -> int:
        """Bytes of all files, those that are being written included."""
        with self._locked() as ledger:
            self._survey(ledger)
            return ledger.nbytes

    def names(self) -> list[str]:
        """Of all entries."""
        return [found.name.partition(".")[0] for found in self._files() if _NAME.fullmatch(found.name)]

    def write(self, name: str, tokens: int, head: Mapping[str, Any], parts: Sequence[Bytes]) -> bool:
        """Keep an entry in the place of another one of its name; False where there is no room for it.

        A disk that is full, or other trouble with it, is logged, once until it is over.
        """
        try:
            done = self._write(name, tokens, head, parts)
        except OSError as error:
            if not self._warned:
                log.warning("%s keeps no more keys and values: %s", self.path, error.strerror)
            self._warned = True
            return False
        self._warned = self._warned and not done
        return done

    def read(self, name: str) -> tuple[dict[str, Any], Bytes] | None:
        """Head and data of an entry, which is used once more; what is damaged is dropped and logged."""

        def whole(file: int, header: Header) -> tuple[dict[str, Any], Bytes]:
            found = read_head(file, header), read_data(file, header)
            self._use(file, header)
            return found

        return self._with(name, whole, ahead=True)

    def head(self, name: str) -> dict[str, Any] | None:
        """The head of an entry alone, which does not count as a use."""
        return self._with(name, read_head)

    def usage(self, name: str) -> Usage | None:
        """How an entry was used."""
        return self._with(name, lambda _, header: header.usage)

    def touch(self, name: str, times: int = 1) -> None:
        """An entry was used so many times more."""
        self._with(name, lambda file, header: self._use(file, header, times))

    def remove(self, name: str) -> None:
        """Drop an entry, if there is one."""
        if self._file(name).exists():
            with self._locked() as ledger:
                self._delete(self._file(name), ledger)

    def clear(self) -> int:
        """Drop all entries; returns how many."""
        with self._locked() as ledger:
            found = self._survey(ledger)
            for stored in found:
                self._delete(self.path / stored.name, ledger)
        return len(found)

    def _write(self, name: str, tokens: int, head: Mapping[str, Any], parts: Sequence[Bytes]) -> bool:
        buffers = write_entry(tokens, head, parts, self._age(), time.time())
        size = sum(len(buffer) for buffer in buffers)
        path = self._file(name)
        with self._locked() as ledger:
            self._delete(path, ledger)
            if ledger.nbytes + size > self.budget and not self._make_room(size, ledger):
                return False
            descriptor, temporary = tempfile.mkstemp(prefix="new-", dir=self.path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # tells others that its writer lives
                os.ftruncate(descriptor, size)
            except BaseException:
                os.close(descriptor)
                os.unlink(temporary)
                raise
            ledger.nbytes += size
        try:
            _write_all(descriptor, buffers)
            with self._locked() as ledger:
                self._delete(path, ledger)  # that another one may have written meanwhile
                os.rename(temporary, path)
        except BaseException:
            with self._locked() as ledger:
                self._delete(Path(temporary), ledger)
            raise
        finally:
            os.close(descriptor)
        return True

    def _with(self, name: str, look: Callable[[int, Header], T], *, ahead: bool = False) -> T | None:
        """What `look` finds in an entry's open file; None without one, or where something is not sound.

        `ahead`: it will read all of it.
        """
        path = self._file(name)
        try:
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error.strerror)
            return None
        try:
            if ahead:
                begin_reading(file)
            return look(file, read_header(file))
        except (Unreadable, OSError, ValueError) as reason:
            self._drop_damaged(path, reason)
            return None
        finally:
            os.close(file)

    def _drop_damaged(self, path: Path, reason: Exception) -> None:
        log.warning("%s is dropped, and computed again when it is needed: %s", path, reason)
        with suppress(OSError), self._locked() as ledger:
            self._delete(path, ledger)

    def _use(self, file: int, header: Header, times: int = 1) -> None:
        usage = header.usage
        usage.uses, usage.used, usage.age = min(usage.uses + times, 1 << 40), time.time(), self._age()
        with suppress(OSError):  # a full disk
            write_usage(file, usage)

    def _make_room(self, size: int, ledger: _Ledger) -> bool:
        """Delete what goes first until so many bytes fit, and some more; False where they do not."""
        most = self.budget - size
        if most < 0:
            return False
        found = sorted(self._survey(ledger), key=lambda s: (self._priority(s.usage), s.usage.used), reverse=True)
        if ledger.nbytes > most:
            while found and ledger.nbytes > max(most - self.budget // _SLACK, 0):
                victim = found.pop()
                self._delete(self.path / victim.name, ledger)
                if self._priority is benefit:
                    ledger.age = max(ledger.age, benefit(victim.usage))
        return ledger.nbytes <= most

    def _survey(self, ledger: _Ledger) -> list[Stored]:
        """Look at every file, drop what is damaged or was left behind, and put the ledger right."""
        found = []
        ledger.nbytes = 0
        for one in self._files():
            if _TEMPORARY.fullmatch(one.name):
                if not _abandoned(Path(one.path)):
                    ledger.nbytes += one.stat().st_size
                continue
            try:
                file = os.open(one.path, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            try:
                found.append(Stored(one.name, read_header(file).usage))
            except Unreadable as reason:
                log.warning("%s is dropped: %s", one.path, reason)
                os.unlink(one.path)
                continue
            finally:
                os.close(file)
            ledger.nbytes += found[-1].usage.nbytes
        if found and not ledger.age:
            ledger.age = max(stored.usage.age for stored in found)
        return found

    def _files(self) -> list[os.DirEntry[str]]:
        with os.scandir(self.path) as entries:
            return [one for one in entries if _NAME.fullmatch(one.name) or _TEMPORARY.fullmatch(one.name)]

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.states"

    def _delete(self, path: Path, ledger: _Ledger) -> None:
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            ledger.nbytes = max(ledger.nbytes - size, 0)

    def _age(self) -> float:
        try:
            file = os.open(self.path / _LOCK, os.O_RDONLY)
        except FileNotFoundError:
            return 0.0
        try:
            ledger = _ledger(file)
        finally:
            os.close(file)
        return ledger.age if ledger else 0.0

    @contextmanager
    def _locked(self) -> Iterator[_Ledger]:
        """Be the only one, of all threads and processes, who writes names in the folder."""
        file = self._lock()
        try:
            ledger = _ledger(file)
            if ledger is None:
                ledger = _Ledger(0, 0.0)
                self._survey(ledger)
            try:
                yield ledger
            finally:
                fixed = _LEDGER.pack(ledger.nbytes, ledger.age, 0)[:-4]
                with suppress(OSError):  # a full disk must not stop deletions
                    os.pwrite(file, fixed + struct.pack("<I", crc32c(fixed)), 0)
        finally:
            os.close(file)

    def _lock(self) -> int:
        while True:
            file = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(self.path / _LOCK)):
                    return file
            os.close(file)  # it was deleted while we waited


def _ledger(file: int) -> _Ledger | None:
    """What the lock's file tells, None where it is new or damaged."""
    raw = os.pread(file, _LEDGER.size, 0)
    if len(raw) < _LEDGER.size:
        return None
    nbytes, age, crc = _LEDGER.unpack(raw)
    return _Ledger(nbytes, age) if crc == crc32c(raw[:-4]) else None


def _write_all(file: int, buffers: Sequence[Any]) -> None:
    waiting = [memoryview(buffer) for buffer in buffers if len(buffer)]
    while waiting:
        count = os.writev(file, waiting[:1000])
        if not count:
            raise OSError(28, "no space left on the disk")
        while waiting and count >= len(waiting[0]):
            count -= len(waiting.pop(0))
        if count:
            waiting[0] = waiting[0][count:]


def _abandoned(path: Path) -> bool:
    """Delete a file whose writer has died; whether it has."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(file)
