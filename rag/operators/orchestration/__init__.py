"""Orchestration: which way to go, whether to go on, and what is remembered."""

from rag.operators.orchestration.answer_cache import AnswerCache, StoreAnswer
from rag.operators.orchestration.confident import Confident
from rag.operators.orchestration.judges import AllAsked, HasHits, PassOn, RelevantByScore
from rag.operators.orchestration.plan import Plan
from rag.operators.orchestration.relevant import Relevant
from rag.operators.orchestration.remember import Remember
from rag.operators.orchestration.route_by_classifier import RouteByClassifier
from rag.operators.orchestration.route_by_model import RouteByModel
from rag.operators.orchestration.routers import RouteByKeywords, RouteByMetadata, RouteBySimilarity, RouteHybrid
from rag.operators.orchestration.select_retriever import SelectRetriever
from rag.operators.orchestration.sufficient import NeedsRetrieval, Sufficient

__all__ = [
    "AllAsked",
    "AnswerCache",
    "Confident",
    "HasHits",
    "NeedsRetrieval",
    "PassOn",
    "Plan",
    "Relevant",
    "RelevantByScore",
    "Remember",
    "RouteByClassifier",
    "RouteByKeywords",
    "RouteByMetadata",
    "RouteByModel",
    "RouteBySimilarity",
    "RouteHybrid",
    "SelectRetriever",
    "StoreAnswer",
    "Sufficient",
]
