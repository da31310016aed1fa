"""Post-retrieval: from ranked chunks to what a reader sees."""

from rag.operators.post_retrieval.build_context import BuildContext
from rag.operators.post_retrieval.calibrate import Calibrate
from rag.operators.post_retrieval.compress import Compress
from rag.operators.post_retrieval.critique import Critique
from rag.operators.post_retrieval.drop_tokens import DropTokens
from rag.operators.post_retrieval.hubness_norm import HubnessNorm
from rag.operators.post_retrieval.maxsim_rerank import MaxSimRerank
from rag.operators.post_retrieval.mmr import MMR
from rag.operators.post_retrieval.order import Order
from rag.operators.post_retrieval.recency import Recency
from rag.operators.post_retrieval.relevance_filter import RelevanceFilter
from rag.operators.post_retrieval.rerank import Rerank
from rag.operators.post_retrieval.rerank_by_model import RerankByModel
from rag.operators.post_retrieval.selective_context import SelectiveContext
from rag.operators.post_retrieval.top import Top
from rag.operators.post_retrieval.where import Where

__all__ = [
    "MMR",
    "BuildContext",
    "Calibrate",
    "Compress",
    "Critique",
    "DropTokens",
    "HubnessNorm",
    "MaxSimRerank",
    "Order",
    "Recency",
    "RelevanceFilter",
    "Rerank",
    "RerankByModel",
    "SelectiveContext",
    "Top",
    "Where",
]
