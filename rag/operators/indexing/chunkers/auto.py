"""The chunker that fits the kind of document."""

from __future__ import annotations

from rag.encoders.protocol import Encoder
from rag.operators.indexing.chunkers.code import Code
from rag.operators.indexing.chunkers.markdown import Markdown
from rag.operators.indexing.chunkers.packing import Chunker
from rag.operators.indexing.chunkers.recursive import Recursive
from rag.types import Chunk, Document

__all__ = ["Auto"]


class Auto(Chunker, name="indexing.auto"):
    """By the document's metadata `format`: `Markdown` for markdown, `Code` for code, `Recursive` for all else."""

    def run(self, document: Document, encoder: Encoder | None = None) -> list[Chunk]:
        kinds = {"markdown": Markdown, "code": Code}
        chunker = kinds.get(document.metadata.get("format", ""), Recursive)
        chunks: list[Chunk] = chunker(size=self.size, overlap=self.overlap).run(document, encoder)
        return chunks
