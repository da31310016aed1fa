"""Pipelines: flows that are checked, bound to resources and run; in Python and as YAML."""

from rag.pipelines.events import Event, Finished, NodeFinished, NodeStarted, Span, Token
from rag.pipelines.execution import Run
from rag.pipelines.pipeline import Pipeline

__all__ = ["Event", "Finished", "NodeFinished", "NodeStarted", "Pipeline", "Run", "Span", "Token"]
