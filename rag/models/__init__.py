"""Language models."""

from rag.models.loading import load
from rag.models.protocol import ChatModel, Completion
from rag.models.scoring import Scored, ScoringModel, can_score, scoring

__all__ = ["ChatModel", "Completion", "Scored", "ScoringModel", "can_score", "load", "scoring"]
