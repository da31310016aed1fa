"""Generation: from a context to an answer."""

from rag.operators.generation.accumulate import Accumulate
from rag.operators.generation.check_support import CheckSupport
from rag.operators.generation.ensemble import Ensemble
from rag.operators.generation.extractive_answer import ExtractiveAnswer
from rag.operators.generation.generate import Generate
from rag.operators.generation.summarise import Summarise
from rag.operators.generation.vote import Vote

__all__ = ["Accumulate", "CheckSupport", "Ensemble", "ExtractiveAnswer", "Generate", "Summarise", "Vote"]
