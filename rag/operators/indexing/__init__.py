"""Indexing: from files to documents, from documents to chunks, and the driver that brings both into a collection."""

from rag.operators.indexing.attach_metadata import AttachMetadata, embedding_text, page_of
from rag.operators.indexing.chunkers.auto import Auto
from rag.operators.indexing.chunkers.code import Code
from rag.operators.indexing.chunkers.fixed import FixedTokens
from rag.operators.indexing.chunkers.markdown import Markdown
from rag.operators.indexing.chunkers.recursive import Recursive
from rag.operators.indexing.chunkers.semantic import Semantic
from rag.operators.indexing.chunkers.sentence import Sentences
from rag.operators.indexing.sentences import sentences
from rag.operators.indexing.small_to_big import SmallToBig

__all__ = [
    "AttachMetadata",
    "Auto",
    "Code",
    "FixedTokens",
    "Markdown",
    "Recursive",
    "Semantic",
    "Sentences",
    "SmallToBig",
    "embedding_text",
    "page_of",
    "sentences",
]
