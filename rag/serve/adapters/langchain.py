"""A pipeline as a retriever of LangChain."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import ConfigDict, Field, field_validator

from rag.errors import MissingExtraError
from rag.pipelines import Pipeline
from rag.serve.adapters.finding import check_finds, find, metadata_of

try:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
except ImportError:
    raise MissingExtraError("the LangChain retriever", "langchain") from None

__all__ = ["PipelineRetriever"]


class PipelineRetriever(BaseRetriever):  # type: ignore[misc]
    """Finds documents with a pipeline: `PipelineRetriever(pipeline=pipeline, k=5).invoke("what is a sheet?")`.

    A document's `page_content` is the chunk's text, its `id` the chunk's number; its metadata holds the chunk's own and
    document, start, end, score. `filter` is a metadata expression. Raises ConfigError for a pipeline without hits.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    pipeline: Any = Field(description="turns a query into hits")
    k: int = Field(10, ge=1, description="documents to return at most")
    filter: str | None = Field(None, description="metadata expression to search within")

    @field_validator("pipeline")
    @classmethod
    def _finds(cls, pipeline: Pipeline) -> Pipeline:
        return check_finds(pipeline)

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [
            Document(page_content=chunk.text, id=str(chunk.id), metadata=metadata_of(chunk, score))
            for chunk, score in find(self.pipeline, query, self.filter, self.k)
        ]

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return await asyncio.to_thread(self._get_relevant_documents, query, run_manager=None)
