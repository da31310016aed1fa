"""Retrieval: from a query to ranked chunks."""

from rag.operators.retrieval.bm25 import BM25
from rag.operators.retrieval.dense import Dense
from rag.operators.retrieval.embed_query import EmbedQuery
from rag.operators.retrieval.follow_names import FollowNames
from rag.operators.retrieval.fuse import Fuse
from rag.operators.retrieval.mixture import MixtureRetrieve
from rag.operators.retrieval.multi_vector import MultiVector

__all__ = ["BM25", "Dense", "EmbedQuery", "FollowNames", "Fuse", "MixtureRetrieve", "MultiVector"]
