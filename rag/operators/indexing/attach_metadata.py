"""Metadata of a chunk's own, and the text that is embedded for it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from rag.operators.base import Operator
from rag.types import Chunk, Document

__all__ = ["AttachMetadata", "embedding_text", "page_of"]


class AttachMetadata(Operator, name="indexing.attach_metadata"):
    """Add to each chunk's metadata: its `page` where the document has pages, copied document fields, constants.

    What holds for a whole document is stored once with the document and need not be copied to be filtered on.
    Constants win over copied fields, and both over what the chunk has.
    """

    copy_fields: tuple[str, ...] = Field((), description="names of document metadata to copy to each chunk")
    constants: dict[str, Any] = Field(default_factory=dict, description="metadata given to every chunk, JSON values")

    def run(self, document: Document, chunks: list[Chunk]) -> list[Chunk]:
        copied = {name: document.metadata[name] for name in self.copy_fields if name in document.metadata}
        added = []
        for chunk in chunks:
            page = page_of(document.metadata, chunk.start)
            own = {**chunk.metadata, **({} if page is None else {"page": page}), **copied, **self.constants}
            added.append(replace(chunk, metadata=own) if own != chunk.metadata else chunk)
        return added


def page_of(metadata: Mapping[str, Any], offset: int) -> int | None:
    """The page, from 1, on which the character at `offset` stands; None for a document without pages.

    Readers of paged formats write `pages`, the offset at which each page begins, to the document's metadata.
    """
    pages = metadata.get("pages")
    return bisect_right(pages, offset) if pages else None


def embedding_text(document: Document, chunk: Chunk, *, title: bool = True) -> str:
    """What an encoder reads for a chunk: title, headings and questions that it does not begin with, then its text.

    Each on a line of its own; the stored text of the chunk stays exact. Questions are those that
    `rag.operators.pre_retrieval.ReverseHyDE` put in its metadata. With `title` False title and headings are left out.
    """
    above = [document.metadata.get("title"), *chunk.metadata.get("headings", ())] if title else []
    questions = chunk.metadata.get("questions")
    above += questions if isinstance(questions, list) else ()
    opening = chunk.text[:400]
    lines = dict.fromkeys(str(part) for part in above if part)
    return "\n".join([*(line for line in lines if line not in opening), chunk.text])
