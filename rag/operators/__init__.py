"""Operators, one folder per module of Modular RAG, and what they are made of."""

from rag.operators.base import Operator, operator
from rag.operators.flow import Flow, Parallel, Sequence
from rag.operators.registry import catalogue, lookup
from rag.operators.signature import Channel

__all__ = ["Channel", "Flow", "Operator", "Parallel", "Sequence", "catalogue", "lookup", "operator"]
