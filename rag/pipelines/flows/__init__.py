"""The flow patterns beyond sequence and parallel branches."""

from rag.pipelines.flows.attempt import Try
from rag.pipelines.flows.composite import FORMS, Composite
from rag.pipelines.flows.each import Each
from rag.pipelines.flows.loop import Budget, Loop, Verify
from rag.pipelines.flows.recurse import Recurse
from rag.pipelines.flows.route import Route

__all__ = ["FORMS", "Budget", "Composite", "Each", "Loop", "Recurse", "Route", "Try", "Verify"]
