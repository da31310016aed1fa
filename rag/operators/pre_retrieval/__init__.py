"""Pre-retrieval: from the question as it was asked to the queries that are searched."""

from rag.operators.pre_retrieval.carry_on import AddAnswer, AddChunk
from rag.operators.pre_retrieval.cove import CoVe
from rag.operators.pre_retrieval.filter_from_query import FilterFromQuery
from rag.operators.pre_retrieval.history_query import HistoryQuery
from rag.operators.pre_retrieval.hyde import HyDE
from rag.operators.pre_retrieval.multi_query import MultiQuery
from rag.operators.pre_retrieval.reverse_hyde import ReverseHyDE
from rag.operators.pre_retrieval.rewrite import Rewrite
from rag.operators.pre_retrieval.sql import RunSQL, SQLFromQuery
from rag.operators.pre_retrieval.step_back import StepBack
from rag.operators.pre_retrieval.sub_queries import NextQuery, SubQueries

__all__ = [
    "AddAnswer",
    "AddChunk",
    "CoVe",
    "FilterFromQuery",
    "HistoryQuery",
    "HyDE",
    "MultiQuery",
    "NextQuery",
    "ReverseHyDE",
    "Rewrite",
    "RunSQL",
    "SQLFromQuery",
    "StepBack",
    "SubQueries",
]
