"""Errors as those outside are told: problem details (RFC 9457) with a hint, and nothing that is not theirs to see.

Messages of our own errors are written for the caller. What any other exception says may hold anything, so only its
class and the node that raised it are told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rag.errors import (
    ConfigError,
    DeadlineError,
    FlowError,
    InputError,
    LockedError,
    ModelError,
    NotFoundError,
    OperatorError,
    RagError,
)

__all__ = ["BusyError", "NoHighlightsError", "Problem", "StoppingError", "UnknownPipelineError", "problem_of"]


class UnknownPipelineError(NotFoundError):
    """The service has no pipeline of this name."""


class NoHighlightsError(NotFoundError):
    """What matched cannot be told: there are no token vectors, or no such passage any more."""


class BusyError(RagError):
    """More requests are under way than the service admits."""


class StoppingError(RagError):
    """The service takes no further requests, since it is about to stop."""

    def __init__(self) -> None:
        super().__init__("the service is stopping", hint="ask again in a moment")


@dataclass(frozen=True)
class Problem:
    """What went wrong: HTTP status, a fixed title for its kind, the particular case, what to do, in which node."""

    status: int
    title: str
    detail: str
    hint: str | None = None
    node: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The members of an `application/problem+json` document."""
        members = {"title": self.title, "status": self.status, "detail": self.detail}
        return members | {k: v for k, v in (("hint", self.hint), ("node", self.node)) if v}


def problem_of(error: BaseException) -> Problem:
    """The problem that an error is to whoever asked."""
    if not isinstance(error, RagError):
        return Problem(500, "Internal error", f"the service failed ({type(error).__name__})")
    node = error.node
    if isinstance(error, OperatorError) and error.__cause__ is not None:
        return Problem(500, "Pipeline failed", f"node {node!r} raised {type(error.__cause__).__name__}", node=node)
    status, title = next((known for kind, known in _KINDS if isinstance(error, kind)), (500, "Pipeline failed"))
    return Problem(status, title, error.message, error.hint, node)


_KINDS: list[tuple[type[RagError], tuple[int, str]]] = [
    (BusyError, (429, "Too many requests")),
    (StoppingError, (503, "Not available")),
    (DeadlineError, (504, "Time limit reached")),
    (InputError, (422, "Wrong arguments")),
    (FlowError, (500, "Pipeline failed")),
    (ConfigError, (422, "Wrong arguments")),  # what a run finds wrong in its settings came with the call: the filter
    (UnknownPipelineError, (404, "Not found")),
    (NoHighlightsError, (404, "Not found")),
    (ModelError, (502, "Model failed")),
    (LockedError, (503, "Collection is being written")),
]
