"""Relevance filtering: from the scores of a retrieval to what is relevant, and whether anything is."""

from rag.relevance.adapter import CosineAdapter
from rag.relevance.answerable import Answerable
from rag.relevance.files import load_models, save_models
from rag.relevance.fitting import Recipe, fit, folds
from rag.relevance.lists import CandidateLists, candidate_lists
from rag.relevance.model import METHODS, FittedMethod, Method, RelevanceModel
from rag.relevance.scorers import SIMPLE, Scored
from rag.relevance.training import train_adapter
from rag.relevance.truncation import Truncation

__all__ = [
    "METHODS",
    "SIMPLE",
    "Answerable",
    "CandidateLists",
    "CosineAdapter",
    "FittedMethod",
    "Method",
    "Recipe",
    "RelevanceModel",
    "Scored",
    "Truncation",
    "candidate_lists",
    "fit",
    "folds",
    "load_models",
    "save_models",
    "train_adapter",
]
