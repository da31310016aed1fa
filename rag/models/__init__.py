"""Language models."""

from rag.models.loading import load
from rag.models.prefilling import Prefill, PrefillingModel, can_prefill
from rag.models.protocol import ChatModel, Completion
from rag.models.scoring import Scored, ScoringModel, can_score, scoring

__all__ = [
    "ChatModel",
    "Completion",
    "Prefill",
    "PrefillingModel",
    "Scored",
    "ScoringModel",
    "can_prefill",
    "can_score",
    "load",
    "scoring",
]
