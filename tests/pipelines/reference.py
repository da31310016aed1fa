"""What flows mean, in plain Python: a recursive function over the flow, with a new dictionary after every step.

It knows the small operators of this module, and no plan, node, batch, thread or event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Annotated, Any, Literal, NamedTuple

from rag.operators import Channel, Flow, Operator, Parallel, Sequence
from rag.operators.resources import ChatModel
from rag.pipelines import Each, Loop, Recurse, Route, Try, Verify
from rag.types import Delta, Message, Query

Number = Annotated[int, Channel("n")]
Text = Annotated[str, Channel("t")]
PRIME = 97


class Everything(NamedTuple):
    """All channels that these flows use."""

    n: int
    t: str
    query: Query
    queries: list[Query]
    route: str
    enough: bool
    error: str
    round: int


def everything(n: int, t: str) -> Everything:
    return Everything(n, t, Query(str(n)), [], "", False, "", 0)


class Begin(Operator, name="testing.random_begin"):
    def run(self, start: int) -> Everything:
        return everything(start % PRIME, "")


class Plus(Operator, name="testing.random_plus"):
    by: int = 1

    def run(self, n: int) -> Number:
        return (n + self.by) % PRIME


class PlusInBatches(Plus, name="testing.random_plus_in_batches"):
    def run_batch(self, n: list[int]) -> list[int]:
        return [self.run(value) for value in n]


class PlusInThreads(Plus, name="testing.random_plus_in_threads", waits=True):
    pass


class PlusLater(Operator, name="testing.random_plus_later"):
    by: int = 1

    async def run(self, n: int) -> Number:
        await asyncio.sleep(0)
        return (n + self.by) % PRIME


class PlusAloud(Operator, name="testing.random_plus_aloud"):
    by: int = 1

    def run(self, n: int) -> Generator[Delta, None, Number]:
        yield Delta(str(n))
        return (n + self.by) % PRIME


class Called(Operator, name="testing.random_called", deterministic=False):
    """Asks a model once, for budgets."""

    def run(self, n: int, llm: ChatModel) -> Number:
        llm.chat([Message("user", str(n))])
        return (3 * n + 1) % PRIME


class Sign(Operator, name="testing.random_sign"):
    letter: str = "a"

    def run(self, n: int, t: str) -> Text:
        return (t + self.letter + str(n))[-40:]


class Measure(Operator, name="testing.random_measure"):
    def run(self, t: str, n: int = 0) -> Number:
        return (n + len(t)) % PRIME


class FailIf(Operator, name="testing.random_fail_if"):
    by: int = 3
    rest: int = 0

    def run(self, n: int) -> Number:
        if n % self.by == self.rest:
            raise ValueError(f"at {n}")
        return n


class Blame(Operator, name="testing.random_blame"):
    def run(self, t: str, error: str) -> Text:
        return (t + "!" * bool(error))[-40:]


class Remainder(Operator, name="testing.random_remainder"):
    def run(self, n: int) -> Annotated[Literal["0", "1", "2"], Channel("route")]:
        return str(n % 3)  # type: ignore[return-value]


class Above(Operator, name="testing.random_above"):
    bound: int = 50

    def run(self, n: int) -> Annotated[bool, Channel("enough")]:
        return n > self.bound


class Split(Operator, name="testing.random_split"):
    """So many questions as the remainder by four says, each a number."""

    def run(self, n: int) -> list[Query]:
        return [Query(str((n + 7 * i) % PRIME)) for i in range(n % 4)]


class Follow(Operator, name="testing.random_follow"):
    """Two questions that follow from a number; they may have been asked before."""

    def run(self, n: int) -> list[Query]:
        return [Query(str(n // 2)), Query(str((n + 5) % PRIME))]


class Read(Operator, name="testing.random_read"):
    def run(self, query: Query) -> Number:
        return int(query.text)


class Join(Operator, name="testing.random_join"):
    def run(self, n: list[int], t: list[str]) -> Everything:
        return everything((sum(n) + len(n)) % PRIME, f"({'|'.join(t)})"[-40:])


class Failed(Exception):
    """An operator raised."""


def interpret(flow: Flow, c: dict[str, Any], calls: list[int]) -> dict[str, Any]:
    """The channels after a flow that begins with the channels `c`; `calls` counts the calls of the model."""
    if isinstance(flow, Operator):
        return _operate(flow, c, calls)
    if isinstance(flow, Sequence):
        for step in flow.steps:
            c = interpret(step, c, calls)
        return c
    if isinstance(flow, Parallel):
        ends = [interpret(branch, dict(c), calls) for branch in flow.branches]
        return {**c, **{x: [end[x] for end in ends] for x in writes(flow)}}
    if isinstance(flow, Route):
        c = interpret(flow.by, c, calls)
        return interpret(flow.flows.get(c["route"]) or flow.flows[flow.default or ""], c, calls)
    if isinstance(flow, Try):
        for _ in range(flow.retries + 1):
            try:
                return interpret(flow.body, dict(c), calls)
            except Failed as error:
                failure = error
        if flow.fallback is None:
            raise failure
        return interpret(flow.fallback, {**c, "error": "failed"}, calls)
    if isinstance(flow, Each):
        ends = [interpret(flow.body, {**c, "query": item}, calls) for item in c["queries"][: flow.at_most]]
        return {**c, **{x: [end[x] for end in ends] for x in writes(flow)}}
    if isinstance(flow, Recurse):
        return _recurse(flow, c, calls)
    assert isinstance(flow, Loop | Verify)
    judge = flow.check if isinstance(flow, Verify) else flow.until
    before, content = calls[0], False
    for number in range(1, flow.at_most + 1):
        c = interpret(flow.body, {**c, "round": number}, calls)
        if judge is not None:
            c = interpret(judge, c, calls)
            content = c["enough"]
        if content or (flow.budget and flow.budget.calls and calls[0] - before >= flow.budget.calls):
            break
    return interpret(flow.otherwise, c, calls) if flow.otherwise is not None and not content else c


def writes(flow: Flow) -> set[str]:
    """Which of n and t a flow may write, whatever way it takes."""
    if isinstance(flow, Operator):
        return {"n", "t"} & {write.channel for write in flow.signature().writes}
    if isinstance(flow, Sequence | Parallel):
        parts = list(flow.steps if isinstance(flow, Sequence) else flow.branches)
    else:
        parts = [child for _, _, child in flow.children()]  # type: ignore[attr-defined]
    return set().union(*map(writes, parts))


def _operate(flow: Operator, c: dict[str, Any], calls: list[int]) -> dict[str, Any]:
    n, t = c.get("n"), c.get("t")
    if isinstance(flow, Begin):
        return everything(c["start"] % PRIME, "")._asdict()
    if isinstance(flow, Join):
        numbers, texts = n if isinstance(n, list) else [n], t if isinstance(t, list) else [t]
        return everything((sum(numbers) + len(numbers)) % PRIME, f"({'|'.join(texts)})"[-40:])._asdict()
    assert isinstance(n, int)
    assert isinstance(t, str)
    if isinstance(flow, Plus | PlusLater | PlusAloud):
        return {**c, "n": (n + flow.by) % PRIME}
    if isinstance(flow, Called):
        calls[0] += 1
        return {**c, "n": (3 * n + 1) % PRIME}
    if isinstance(flow, FailIf):
        if n % flow.by == flow.rest:
            raise Failed(f"at {n}")
        return c
    if isinstance(flow, Sign):
        return {**c, "t": (t + flow.letter + str(n))[-40:]}
    if isinstance(flow, Measure):
        return {**c, "n": (n + len(t)) % PRIME}
    if isinstance(flow, Blame):
        return {**c, "t": (t + ("!" if c["error"] else ""))[-40:]}
    if isinstance(flow, Remainder):
        return {**c, "route": str(n % 3)}
    if isinstance(flow, Above):
        return {**c, "enough": n > flow.bound}
    if isinstance(flow, Split):
        return {**c, "queries": [Query(str((n + 7 * i) % PRIME)) for i in range(n % 4)]}
    if isinstance(flow, Follow):
        return {**c, "queries": [Query(str(n // 2)), Query(str((n + 5) % PRIME))]}
    assert isinstance(flow, Read)
    return {**c, "n": int(c["query"].text)}


def _recurse(flow: Recurse, c: dict[str, Any], calls: list[int]) -> dict[str, Any]:
    """Level by level; a question is asked once, and no more questions than `max_nodes`."""
    ends: list[dict[str, Any]] = []
    asked: list[Query] = []
    level = [c["query"]]
    for depth in range(flow.max_depth + 1):
        level = level[: flow.max_nodes - len(asked)]
        done = [interpret(flow.body, {**c, "query": query}, calls) for query in level]
        asked, ends = asked + level, ends + done
        if depth == flow.max_depth or len(asked) == flow.max_nodes:
            break
        known, level = {query.text for query in asked}, []
        for end in done:
            for query in interpret(flow.derive, end, calls)["queries"]:
                if query.text not in known:
                    known.add(query.text)
                    level.append(query)
    return {**c, **{x: [end[x] for end in ends] for x in writes(flow.body)}, "queries": asked}
