"""Pipelines: flows that are checked, bound to resources and run; in Python and as YAML."""

from rag.pipelines.events import Event, Finished, NodeFinished, NodeStarted, Noted, Span, Token
from rag.pipelines.execution import Run
from rag.pipelines.flows import Budget, Each, Loop, Recurse, Route, Try, Verify
from rag.pipelines.memo import Checkpoint, ContentCache
from rag.pipelines.pipeline import Pipeline

__all__ = [
    "Budget",
    "Checkpoint",
    "ContentCache",
    "Each",
    "Event",
    "Finished",
    "Loop",
    "NodeFinished",
    "NodeStarted",
    "Noted",
    "Pipeline",
    "Recurse",
    "Route",
    "Run",
    "Span",
    "Token",
    "Try",
    "Verify",
]
