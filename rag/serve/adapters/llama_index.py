"""A pipeline as a retriever of LlamaIndex."""

from __future__ import annotations

import asyncio
from typing import Any

from rag.errors import MissingExtraError
from rag.pipelines import Pipeline
from rag.serve.adapters.finding import check_finds, find, metadata_of

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
except ImportError:
    raise MissingExtraError("the LlamaIndex retriever", "llama-index") from None

__all__ = ["PipelineRetriever"]


class PipelineRetriever(BaseRetriever):  # type: ignore[misc]
    """Finds nodes with a pipeline: `PipelineRetriever(pipeline, k=5).retrieve("what is a sheet?")`.

    A node's text is the chunk's, its id the chunk's number, with the places in its document; its metadata holds the
    chunk's own and document, start, end. `filter` is a metadata expression. Raises ConfigError for a pipeline without
    hits.
    """

    def __init__(self, pipeline: Pipeline, *, k: int = 10, filter: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self._pipeline = check_finds(pipeline)
        self._k = k
        self._filter = filter

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = find(self._pipeline, query_bundle.query_str, self._filter, self._k)
        nodes = []
        for chunk, score in found:
            facts = metadata_of(chunk, score)
            node = TextNode(
                id_=str(chunk.id),
                text=chunk.text,
                metadata=facts,
                start_char_idx=chunk.start,
                end_char_idx=chunk.end,
                # What only says where the text stands is not for the embedding or the prompt.
                excluded_embed_metadata_keys=list(facts),
                excluded_llm_metadata_keys=["start", "end", "chunk", "score"],
            )
            nodes.append(NodeWithScore(node=node, score=score))
        return nodes

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
