"""The figures of a collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rag.collection import database
from rag.collection.manifest import Manifest
from rag.index import Codec, Metric

__all__ = ["Info"]


@dataclass(frozen=True)
class Info:
    """The figures of one generation. `bytes` is by part: text, vectors, postings. `engine` is None for our own."""

    path: Path
    generation: int
    created: datetime
    updated: datetime
    documents: int
    chunks: int
    deleted: int
    segments: int
    bytes: Mapping[str, int]
    encoder: str
    dim: int
    metric: Metric
    codec: Codec
    engine: str | None
    language: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path, manifest: Manifest) -> Info:
        return cls(
            path=path,
            generation=manifest.generation,
            created=manifest.created,
            updated=manifest.updated,
            documents=manifest.documents,
            chunks=manifest.chunks,
            deleted=manifest.deleted,
            segments=len(manifest.segments),
            bytes={
                "text": sum(p.stat().st_size for p in path.glob(database.NAME + "*")),
                "vectors": sum(s.vectors.bytes for s in manifest.segments),
                "postings": sum(s.postings.bytes for s in manifest.segments),
            },
            encoder=manifest.encoder.name,
            dim=manifest.encoder.dim,
            metric=manifest.metric,
            codec=manifest.codec,
            engine=manifest.engine,
            language=manifest.language,
            settings=manifest.settings,
        )
