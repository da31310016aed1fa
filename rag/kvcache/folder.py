"""The user's own folder of keys and values, which local models use as soon as it has been set up."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rag.errors import ConfigError
from rag.kvcache.codec import Codec
from rag.kvcache.disk import DiskStore
from rag.kvcache.memory import MemoryStore
from rag.kvcache.tiers import TieredStore
from rag.usercache import cache_dir

__all__ = ["FolderSettings", "open_store", "user_folder", "user_store"]

log = logging.getLogger("rag.kvcache")

_FILE = "settings.json"


class FolderSettings(BaseModel):
    """How a folder is kept: bytes on disk at most, and the codec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: int = Field(8 << 30, ge=0)
    codec: Codec = "computed"

    @classmethod
    def of(cls, folder: Path) -> FolderSettings | None:
        """Those that a folder was set up with; None where it was not, or where they cannot be read, which is logged."""
        path = folder / _FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("%s cannot be used, and no keys and values are kept there: %s", path, error)
            return None

    def keep(self, folder: Path) -> None:
        """Set a folder up with these."""
        temporary = folder / f"{_FILE}.new"
        temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        temporary.replace(folder / _FILE)

    @staticmethod
    def drop(folder: Path) -> None:
        """Let a folder be used no more by whoever starts later."""
        (folder / _FILE).unlink(missing_ok=True)


def user_folder() -> Path:
    """Where this user's keys and values lie: `kvcache` in the user's cache folder (environment `RAG_CACHE`)."""
    return cache_dir() / "kvcache"


def open_store(
    folder: str | Path,
    *,
    memory: int = 1 << 30,
    disk: int = 8 << 30,
    codec: Codec = "computed",
    device: Any = None,
    device_memory: int = 1 << 30,
) -> TieredStore:
    """A store with a tier of host memory over a folder, and one of device memory above both where a device is named.

    `memory`, `disk` and `device_memory` are bytes; `device` is torch's name of it; `codec` is that of DiskStore.
    Raises as DiskStore does.
    """
    tiers = [MemoryStore(memory, device="cpu")]
    if device is not None:
        tiers.insert(0, MemoryStore(device_memory, device=device))
    return TieredStore(*tiers, disk=DiskStore(folder, disk, codec=codec))


def user_store(device: Any) -> MemoryStore | TieredStore:
    """The store for a model on this device: 1 GiB of memory, and the user's folder below it where that is set up."""
    folder = user_folder()
    settings = FolderSettings.of(folder)
    if settings is None:
        return MemoryStore()
    try:
        on_host = device.type == "cpu"
        return open_store(
            folder, disk=settings.budget, codec=settings.codec, device=None if on_host else device, memory=1 << 30
        )
    except ConfigError as error:
        log.warning("keys and values are kept in memory only: %s", error)
        return MemoryStore()
