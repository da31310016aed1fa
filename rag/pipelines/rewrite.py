"""Plans that rewrite themselves: the same result with less work.

Three rules, after PyTerrier's (Macdonald and Tonellotto, ICTIR 2020):

- a filter moves into what stands before it, where that gives the same: `Dense(k=None) >> Where("year > 2020")` searches
  within the filter. After a search for 10 hits it stays where it is: the best 10 that pass are not those that pass
  among the best 10;
- a cut-off moves into what stands before it: `Dense(k=1000) >> Top(k=10)` asks the index for 10;
- retrievals that use the embedding of one and the same query share it: it is computed once, before them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import singledispatch
from typing import Protocol, runtime_checkable

from rag.operators import Flow, Operator, Parallel, Sequence
from rag.operators.retrieval.embed_query import EmbedQuery
from rag.pipelines.flows.composite import Composite

__all__ = ["CutsOff", "EmbedsQuery", "EmbedsTokens", "Filterable", "Filters", "Limited", "rewrite"]


@runtime_checkable
class Limited(Protocol):
    """An operator that can be asked for fewer hits: `limited(k)` gives the first k of what it would give."""

    def limited(self, k: int) -> Operator: ...


@runtime_checkable
class CutsOff(Protocol):
    """An operator that looks at the first `cut_off()` hits only; None when it looks at all."""

    def cut_off(self) -> int | None: ...


@runtime_checkable
class Filterable(Protocol):
    """An operator that can filter: `filtered(expression)` gives those of its hits that pass; None if it cannot."""

    def filtered(self, expression: str) -> Operator | None: ...


@runtime_checkable
class Filters(Protocol):
    """An operator that keeps exactly the hits that pass the filter `keeps()`, as they are."""

    def keeps(self) -> str: ...


@runtime_checkable
class EmbedsQuery(Protocol):
    """An operator that embeds the query with the collection's encoder, unless the query carries a vector."""

    def embeds_query(self) -> bool: ...


@runtime_checkable
class EmbedsTokens(Protocol):
    """An operator that makes token vectors of the query, unless the query carries them."""

    def embeds_tokens(self) -> bool: ...


def rewrite(flow: Flow) -> Flow:
    """An equal flow that does less work; the same flow when there is nothing to gain."""
    return _share_embeddings(_in_sequences(_in_sequences(flow, _push_filters), _push_cut_offs))


def _in_sequences(flow: Flow, change: Callable[[list[Flow]], None]) -> Flow:
    """The flow with the steps of every sequence in it changed, the innermost first."""
    if isinstance(flow, Parallel):
        return Parallel(tuple(_in_sequences(branch, change) for branch in flow.branches))
    if isinstance(flow, Composite):
        return _with_children(flow, lambda child: _in_sequences(child, change))
    if isinstance(flow, Sequence):
        steps = [_in_sequences(step, change) for step in flow.steps]
        change(steps)
        return Sequence(tuple(steps))
    return flow


def _push_filters(steps: list[Flow]) -> None:
    for i in range(len(steps) - 2, -1, -1):  # from the end, so that several filters become one
        before, after = steps[i], steps[i + 1]
        if isinstance(after, Filters) and isinstance(before, Filterable):
            filtered = before.filtered(after.keeps())
            if filtered is not None:
                steps[i : i + 2] = [filtered]


def _push_cut_offs(steps: list[Flow]) -> None:
    for i in range(len(steps) - 2, -1, -1):  # from the end, so that a cut-off can move more than one place
        before, after = steps[i], steps[i + 1]
        k = after.cut_off() if isinstance(after, CutsOff) else None
        if k is not None and isinstance(before, Limited):
            steps[i] = before.limited(k)


@singledispatch
def _share_embeddings(flow: Flow) -> Flow:
    return flow


@_share_embeddings.register
def _(flow: Composite) -> Flow:
    return _with_children(flow, _share_embeddings)


@_share_embeddings.register
def _(flow: Parallel) -> Flow:
    if _uses(flow) > 1:
        return Sequence((_embed_query([flow]), flow))
    return Parallel(tuple(_share_embeddings(branch) for branch in flow.branches))


@_share_embeddings.register
def _(flow: Sequence) -> Flow:
    steps: list[Flow] = []
    rest = list(flow.steps)
    embedded = False
    while rest:
        # As far as the query stays the same, its embedding does.
        stretch = next((i for i, step in enumerate(rest) if _writes_query(step)), len(rest))
        same, rest = rest[:stretch], rest[stretch:]
        users = [i for i, step in enumerate(same) if _uses(step)]
        if not embedded:
            if sum(_uses(step) for step in same) > 1:
                same.insert(users[0], _embed_query(same))
            else:
                same = [_share_embeddings(step) for step in same]
        steps += same
        if rest:
            embedded = isinstance(rest[0], EmbedQuery)
            steps.append(_share_embeddings(rest.pop(0)))
    flat = [part for step in steps for part in (step.steps if isinstance(step, Sequence) else (step,))]
    return Sequence(tuple(flat))


def _embed_query(flows: list[Flow]) -> EmbedQuery:
    """What embeds the query for these."""
    return EmbedQuery(tokens=any(_uses_tokens(flow) for flow in flows))


def _uses_tokens(flow: Flow) -> bool:
    """Whether a flow makes token vectors of the query that it is given."""
    if isinstance(flow, Parallel):
        return any(_uses_tokens(branch) for branch in flow.branches)
    if isinstance(flow, Sequence):
        before = itertools.takewhile(lambda step: not _writes_query(step), flow.steps)
        return any(_uses_tokens(step) for step in before)
    return isinstance(flow, EmbedsTokens) and flow.embeds_tokens()


def _uses(flow: Flow) -> int:
    """How often a flow embeds the query that it is given."""
    if isinstance(flow, Parallel):
        return sum(_uses(branch) for branch in flow.branches)
    if isinstance(flow, Sequence):
        count = 0
        for step in flow.steps:
            if _writes_query(step):
                break
            count += _uses(step)
        return count
    return int(isinstance(flow, EmbedsQuery) and flow.embeds_query())


def _writes_query(flow: Flow) -> bool:
    """Whether the query may be another one after this flow. Branches have their own."""
    if isinstance(flow, Operator):
        return any(write.channel == "query" for write in flow.signature().writes)
    if isinstance(flow, Sequence):
        return any(_writes_query(step) for step in flow.steps)
    return not isinstance(flow, Parallel)


def _with_children(flow: Composite, change: Callable[[Flow], Flow]) -> Composite:
    """The same composite with its children changed."""
    update: dict[str, object] = {}
    for name, key, child in flow.children():
        if key is None:
            update[name] = change(child)
        else:
            ways = update.setdefault(name, {})
            assert isinstance(ways, dict)
            ways[key] = change(child)
    return flow.model_copy(update=update)
