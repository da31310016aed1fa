"""Post-retrieval: from ranked chunks to what a reader sees."""

from rag.operators.post_retrieval.build_context import BuildContext
from rag.operators.post_retrieval.top import Top

__all__ = ["BuildContext", "Top"]
