"""The manifest: the one small file that says which files make up the current generation of a collection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rag._native import crc32c
from rag.collection.files import FileRecord, write_atomic
from rag.collection.storage import Keeping, Storage
from rag.collection.tokens import TokenStorage, default_codec
from rag.encoders import MultiVectorEncoder, TokenVectors
from rag.errors import CollectionError, DamagedFileError, EncoderMismatchError, NotFoundError
from rag.index import Metric
from rag.index.multivector import TokenCodec

__all__ = ["DAMAGED", "FORMAT", "NAME", "EncoderRecord", "Manifest", "SegmentRecord", "TokensRecord"]

FORMAT: Literal[3] = 3
"""Since 3 a segment may have a file of token vectors.

Since 2 a collection may let each segment decide how it keeps vectors. In 1, float32 was what one got without asking:
such a collection decides from now on as well, whenever it writes a segment."""
NAME = "manifest.json"
DAMAGED = "restore it from its copy: `rag repair`, or Collection.open(path, repair=True).rebuild()"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderRecord(_Record):
    """The encoder that made the vectors."""

    name: str
    fingerprint: str
    dim: int = Field(ge=1)
    max_tokens: int


class TokensRecord(_Record):
    """The encoder that made the token vectors, and how these are kept."""

    name: str
    fingerprint: str
    dim: int = Field(ge=1)
    pool_factor: int = Field(1, ge=1)
    codec: TokenCodec

    @classmethod
    def of(cls, encoder: MultiVectorEncoder, codec: TokenCodec | None) -> TokensRecord:
        return cls(
            name=encoder.name,
            fingerprint=encoder.fingerprint,
            dim=encoder.dim,
            pool_factor=encoder.pool_factor,
            codec=codec or default_codec(encoder.dim),
        )

    def check(self, tokens: TokenVectors, folder: Path) -> None:
        """EncoderMismatchError for tokens that are known to be of another encoder, or pooled otherwise."""
        if tokens.made_by not in ("", self.fingerprint):
            raise EncoderMismatchError(
                f"token vectors of {folder} are made by {self.described()}, and these by an encoder with fingerprint "
                f"{tokens.made_by[:12]}",
                hint="encode with collection.token_encoder",
            )

    def described(self) -> str:
        """The encoder, for messages."""
        pooled = f"pooled by {self.pool_factor}, " if self.pool_factor > 1 else ""
        return f"{self.name!r} ({self.dim} numbers, {pooled}fingerprint {self.fingerprint[:12]})"


class SegmentRecord(_Record):
    """The chunks `first` to `last` that one commit or merge wrote together, and which of them were deleted since."""

    first: int = Field(ge=0)
    last: int = Field(ge=0)
    chunks: int = Field(ge=1)
    deleted: int = Field(ge=0)
    vectors: FileRecord
    postings: FileRecord
    tombstones: FileRecord | None
    tokens: FileRecord | None = None
    """Of token vectors; None while the segment has none."""

    @property
    def live(self) -> int:
        return self.chunks - self.deleted

    @property
    def files(self) -> list[FileRecord]:
        return [f for f in (self.vectors, self.postings, self.tokens, self.tombstones) if f is not None]


class Manifest(_Record):
    """One generation of a collection."""

    format: Literal[3] = FORMAT
    collection: str
    generation: int = Field(ge=0)
    created: datetime
    updated: datetime
    encoder: EncoderRecord
    tokens: TokensRecord | None = None
    """None for a collection that holds no token vectors."""
    metric: Metric
    codec: Keeping
    engine: str | None = None
    """A canonical URI (`rag.index.engines`), without secrets; None for our own."""
    language: str
    settings: Mapping[str, Any]
    documents: int = Field(ge=0)
    chunks: int = Field(ge=0)
    next_chunk: int = Field(ge=0)
    next_file: int = Field(ge=0)
    segments: tuple[SegmentRecord, ...]

    @property
    def files(self) -> list[FileRecord]:
        return [file for segment in self.segments for file in segment.files]

    @property
    def storage(self) -> Storage:
        return Storage(self.engine, self.encoder.dim, self.metric, self.codec)

    @property
    def token_storage(self) -> TokenStorage | None:
        """None for a collection that holds no token vectors."""
        return None if self.tokens is None else TokenStorage(self.tokens.dim, self.tokens.codec)

    @property
    def deleted(self) -> int:
        """Deleted chunks that are still in the segments."""
        return sum(segment.deleted for segment in self.segments)

    def dump(self) -> str:
        """The file's text, its own checksum included."""
        content = self.model_dump(mode="json", exclude=None if self.engine else {"engine"})
        return json.dumps({"crc32c": _crc(content), **content}, indent=1, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """Make this the current generation: the commit point."""
        write_atomic(folder / NAME, self.dump().encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The current manifest. NotFoundError without one, DamagedFileError, or CollectionError for a newer format."""
        path = folder / NAME
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(
                f"{folder} is not a collection: it has no {NAME}", hint="make one with `rag index` or Collection.create"
            ) from None
        except OSError as error:
            raise CollectionError(f"{path} cannot be read: {error.strerror}") from error
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: bytes | str, path: Path) -> Manifest:
        """The manifest that `dump` wrote as `text`; `path` is for messages."""
        try:
            content = json.loads(text)
            stored = content.pop("crc32c")
            version = content["format"]
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise DamagedFileError(f"{path} is not a manifest", hint=DAMAGED) from error
        if stored != _crc(content):
            raise DamagedFileError(f"{path} has changed since it was written (checksum differs)", hint=DAMAGED)
        if isinstance(version, int) and version > FORMAT:
            raise CollectionError(
                f"{path} has format {version}, this version of modular-rag reads up to {FORMAT}",
                hint="pip install --upgrade modular-rag",
            )
        if version == 1:
            kept = content.get("codec")
            undecided = kept == "float32" and content.get("engine") is None
            content |= {"format": FORMAT, "codec": "auto" if undecided else kept}
        elif version == 2:
            content |= {"format": FORMAT}
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise DamagedFileError(f"{path} is not a manifest: {error}", hint=DAMAGED) from error


def _crc(content: Mapping[str, Any]) -> int:
    return crc32c(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
