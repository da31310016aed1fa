"""The algebra of flows: `a >> b` runs b after a, `a | b` runs both side by side on the same input."""

from __future__ import annotations

from dataclasses import dataclass

from rag.errors import FlowError

__all__ = ["Flow", "Parallel", "Sequence"]


class Flow:
    """Anything that can stand in a pipeline: an operator, or flows arranged in some way.

    In Python `>>` binds tighter than `|`, so write `(Dense() | BM25()) >> Fuse()` with its brackets.
    """

    def __rshift__(self, other: Flow) -> Sequence:
        return Sequence((*_parts(self, Sequence), *_parts(_flow(other), Sequence)))

    def __or__(self, other: Flow) -> Parallel:
        return Parallel((*_parts(self, Parallel), *_parts(_flow(other), Parallel)))


@dataclass(frozen=True)
class Sequence(Flow):
    """Flows one after another; each sees what the ones before it wrote."""

    steps: tuple[Flow, ...]

    def __repr__(self) -> str:
        return " >> ".join(f"({s!r})" if isinstance(s, Parallel) else repr(s) for s in self.steps)


@dataclass(frozen=True)
class Parallel(Flow):
    """Flows side by side, each on its own copy of the input channels.

    Afterwards a channel that one branch made new has that value. One that several branches wrote, or that a branch
    wrote over, holds one value a branch, and the next operator that reads it has to take a list. The pipeline's inputs
    (`query` and the like) are as they were before the branches, unless an operator reads a list of them.
    """

    branches: tuple[Flow, ...]

    def __repr__(self) -> str:
        return " | ".join(f"({b!r})" if isinstance(b, Sequence) else repr(b) for b in self.branches)


def _parts(flow: Flow, kind: type[Sequence] | type[Parallel]) -> tuple[Flow, ...]:
    if isinstance(flow, kind):
        return flow.steps if isinstance(flow, Sequence) else flow.branches
    return (flow,)


def _flow(value: object) -> Flow:
    if isinstance(value, Flow):
        return value
    if isinstance(value, type) and issubclass(value, Flow):
        raise FlowError(f"{value.__name__} is a class, a flow needs an operator", hint=f"write {value.__name__}()")
    raise FlowError(
        f"{value!r} ({type(value).__name__}) cannot stand in a flow",
        hint="use an operator; @operator makes one of a function",
    )
