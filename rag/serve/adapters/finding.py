"""What all adapters do: run a pipeline that finds hits and read their chunks."""

from __future__ import annotations

from collections.abc import Sequence

from rag.errors import ConfigError
from rag.pipelines import Pipeline
from rag.types import Chunk, Hits, Query

__all__ = ["Found", "check_finds", "find", "find_all", "metadata_of"]

Found = list[tuple[Chunk, float]]
"""Chunks with their scores, best first."""


def check_finds(pipeline: Pipeline) -> Pipeline:
    """The pipeline itself; ConfigError when it does not turn a query into hits."""
    if pipeline.outputs.get("hits") is not Hits or list(pipeline.inputs) != ["query"]:
        raise ConfigError(
            f"pipeline {pipeline.name!r} does not turn a query into hits",
            hint="give one that ends with a retriever or a fusion",
        )
    return pipeline


def find(pipeline: Pipeline, text: str, filter: str | None, k: int) -> Found:
    """The first k hits for a question."""
    return _read(pipeline.run(Query(text, filter)).hits, k)


def find_all(pipeline: Pipeline, texts: Sequence[str], filter: str | None, k: int) -> list[Found]:
    """The first k hits for each question, all in one batch."""
    return [_read(state.hits, k) for state in pipeline.run_batch([Query(text, filter) for text in texts])]


def metadata_of(chunk: Chunk, score: float) -> dict[str, object]:
    """The chunk's metadata with where it stands: document, start and end in its text, chunk number, score."""
    place = {"document": chunk.document, "start": chunk.start, "end": chunk.end, "chunk": chunk.id, "score": score}
    return {**chunk.metadata, **place}


def _read(hits: Hits, k: int) -> Found:
    best = hits.top(k)
    return list(zip(best.chunks(), best.scores.tolist(), strict=True))
