"""The figures of a collection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rag.collection import database
from rag.collection.manifest import Manifest, SegmentRecord, TokensRecord
from rag.collection.segments import Segment
from rag.collection.storage import Keeping
from rag.collection.tokens import chunks_without
from rag.index import Metric
from rag.index.effort import EffortCurve
from rag.index.multivector import TokenCodec

__all__ = ["Info", "SegmentInfo", "TokensInfo"]


@dataclass(frozen=True)
class SegmentInfo:
    """How a segment keeps its vectors."""

    kind: str
    """"scan", "graph", or "faiss:" and what faiss was asked for."""
    codec: str
    chunks: int
    """That can be found."""
    tombstones: int
    """Rows of its file that stand for deleted chunks."""
    bytes: int
    """Of its file of vectors."""
    bytes_per_vector: float
    """Everything included, for each that can be found."""
    degree: int | None
    """Links of a vector, at most; None without a graph."""
    effort: EffortCurve | None
    """Recall@10 by window, as a graph has measured it on itself."""
    token_vectors: int | None
    """None where the chunks have none yet."""

    @classmethod
    def of(cls, segment: Segment) -> SegmentInfo:
        live = segment.record.live
        size = segment.record.vectors.bytes
        index = segment.index
        return cls(
            index.kind,
            index.codec,
            live,
            index.rows - live,
            size,
            size / max(live, 1),
            index.degree,
            index.effort,
            None if segment.tokens is None else segment.tokens.tokens,
        )


@dataclass(frozen=True)
class TokensInfo:
    """The token vectors of a collection."""

    encoder: str
    dim: int
    pool_factor: int
    """Tokens of a text for each vector, about."""
    codec: TokenCodec
    vectors: int
    """That can be found."""
    bytes_per_vector: float
    missing: int
    """Chunks that have none yet, since an upgrade was not finished."""

    @classmethod
    def of(cls, record: TokensRecord, segments: Sequence[Segment]) -> TokensInfo:
        tokens = sum(segment.tokens.tokens for segment in segments if segment.tokens is not None)
        size = _token_bytes([segment.record for segment in segments])
        return cls(
            encoder=record.name,
            dim=record.dim,
            pool_factor=record.pool_factor,
            codec=record.codec,
            vectors=tokens,
            bytes_per_vector=size / max(tokens, 1),
            missing=chunks_without(segments),
        )


@dataclass(frozen=True)
class Info:
    """The figures of one generation. `bytes` is by part: text, vectors, postings, tokens. `engine` is None for our own.

    `codec` is what the collection was told, or "auto"; `indexes` says what each segment has made of it.
    """

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
    codec: Keeping
    engine: str | None
    language: str
    settings: Mapping[str, Any]
    token_vectors: TokensInfo | None
    """None for a collection that holds no token vectors."""
    indexes: tuple[SegmentInfo, ...]

    @classmethod
    def of(cls, path: Path, manifest: Manifest, segments: Sequence[Segment]) -> Info:
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
                **({} if manifest.tokens is None else {"tokens": _token_bytes(manifest.segments)}),
            },
            encoder=manifest.encoder.name,
            dim=manifest.encoder.dim,
            metric=manifest.metric,
            codec=manifest.codec,
            engine=manifest.engine,
            language=manifest.language,
            settings=manifest.settings,
            token_vectors=None if manifest.tokens is None else TokensInfo.of(manifest.tokens, segments),
            indexes=tuple(map(SegmentInfo.of, segments)),
        )


def _token_bytes(segments: Iterable[SegmentRecord]) -> int:
    return sum(segment.tokens.bytes for segment in segments if segment.tokens is not None)
