"""What the words of a question matched in passages that a pipeline found: the request, the reply, the collection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rag.collection import Collection
from rag.errors import InputError, NotFoundError
from rag.operators.indexing.ingest import indexed_texts
from rag.pipelines import Pipeline
from rag.serve.matches import WordMatch, word_matches
from rag.serve.problems import NoHighlightsError
from rag.types import Chunk

__all__ = ["Highlights", "HighlightsRequest", "collection_of", "explains", "highlights"]

Span = Annotated[
    tuple[int, int], Field(description="first character, and the one after the last (Unicode code points)")
]


class HighlightsRequest(BaseModel):
    """Passages to explain."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: str = Field(min_length=1, max_length=10_000, description="the question, in words")
    chunks: list[Annotated[int, Field(ge=0, lt=1 << 63)]] = Field(
        min_length=1, max_length=100, description="numbers (`id`) of passages that were found"
    )

    @classmethod
    def parse(cls, arguments: Mapping[str, Any] | bytes) -> HighlightsRequest:
        """The request that these arguments, or this JSON text, are; InputError naming what is wrong."""
        try:
            if isinstance(arguments, bytes):
                return cls.model_validate_json(arguments)
            return cls.model_validate(arguments)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise InputError(
                f"argument {where!r}: {problem['msg']}" if where else f"no JSON object of arguments: {problem['msg']}",
                hint="the arguments are query, a text, and chunks, a list of numbers",
            ) from None


class MatchRow(BaseModel):
    """A word of the question, and the word of the passage that fits it best."""

    word: str = Field(description="the word of the question")
    query: Span = Field(description="where it stands in the question")
    found: str = Field(description="the word of the passage; empty when it stands in a title above it")
    span: Span | None = Field(description="where that stands in the document's text, null for a title")
    score: float = Field(description="the cosine of the two, 1 at most")
    strength: Literal["strong", "weak", "none"] = Field(description="how much that says")


class ChunkMatches(BaseModel):
    """What matched in one passage."""

    chunk: int = Field(description="number of the passage")
    matches: list[MatchRow] = Field(description="in the order of the question; empty for a passage without words")


class Highlights(BaseModel):
    """What matched in each of the passages, in their order."""

    highlights: list[ChunkMatches]


def collection_of(pipeline: Pipeline) -> Collection | None:
    """The collection whose passages a pipeline gives; None when it has none, or several."""
    resources = (value for part in (pipeline, *pipeline.parts) for value in part.resources.values())
    found = {one.path.resolve(): one for one in resources if isinstance(one, Collection)}
    return next(iter(found.values())) if len(found) == 1 else None


def explains(pipeline: Pipeline) -> bool:
    """Whether matches can be told of what a pipeline finds: its collection holds token vectors."""
    collection = collection_of(pipeline)
    return collection is not None and collection.has_tokens


def highlights(pipeline: Pipeline, request: HighlightsRequest) -> dict[str, Any]:
    """The reply, as JSON values. NoHighlightsError without token vectors, and for passages that are not there."""
    collection = collection_of(pipeline)
    if collection is None or not collection.has_tokens:
        raise NoHighlightsError(
            "this pipeline does not search one collection with token vectors", hint="rag upgrade KB --multi-vector"
        )
    try:
        chunks = collection.chunks(request.chunks)
    except NotFoundError:
        raise NoHighlightsError(
            f"not all of the passages {request.chunks} are there", hint="ask again: the collection may have changed"
        ) from None
    found = collection.highlights(request.query, request.chunks, texts=indexed_texts(collection))
    told = []
    for chunk, matches in zip(chunks, found, strict=True):
        words = word_matches(request.query, chunk.text, matches)
        told.append(ChunkMatches(chunk=chunk.id, matches=[_row(request.query, chunk, word) for word in words]))
    return Highlights(highlights=told).model_dump(mode="json")


def _row(query: str, chunk: Chunk, match: WordMatch) -> MatchRow:
    start, end = match.text or (0, 0)
    return MatchRow(
        word=query[slice(*match.query)],
        query=match.query,
        found=chunk.text[start:end],
        span=(chunk.start + start, chunk.start + end) if match.text else None,
        score=match.score,
        strength=match.strength,
    )
