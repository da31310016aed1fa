"""Loops: a flow again and again until a judge is content, with a hard bound and an optional budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from rag.operators import Flow
from rag.pipelines.execution import Run
from rag.pipelines.flows.composite import Composite
from rag.pipelines.meter import metering
from rag.pipelines.node import Channels, Node, Resolve
from rag.pipelines.observe import traced
from rag.pipelines.plan import Checker, Path, Scope, Slot, compile_flow, merge_scopes, union_type
from rag.types import Usage

__all__ = ["Budget", "Loop", "Verify"]


class Budget(BaseModel):
    """What a loop may consume before it stops: looked at between rounds.

    In a batch each item has a budget of its own, and is charged an equal share of what every round of it consumes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int | None = Field(None, ge=1, description="tokens that language models read and write")
    calls: int | None = Field(None, ge=1, description="calls of language models")
    seconds: float | None = Field(None, gt=0, description="seconds since the loop began")

    def spent(self, usage: Usage, seconds: float) -> str | None:
        """What is used up, in words, or None."""
        for what, used, allowed in (
            ("tokens", usage.prompt_tokens + usage.completion_tokens, self.tokens),
            ("calls", usage.calls, self.calls),
            ("seconds", seconds, self.seconds),
        ):
            if allowed is not None and used >= allowed:
                return f"the budget of {allowed:g} {what} is spent"
        return None


class Loop(Composite, form="loop"):
    """Run `body` until the judge `until` says so (Modular RAG, arXiv:2407.21059, loop pattern).

        Loop(Rewrite() >> retrieve >> Generate(), until=Sufficient(), at_most=4)

    `until` ends in an operator that writes one bool; it is asked after every round, and True ends the loop. Without it
    the body runs `at_most` times. What a round writes the next one can read: channels that only the body writes are
    absent in the first round, so an operator of the body takes them as optional. The channel `round` counts from 1.
    When the bound or the budget ends the loop first, `otherwise` runs, if there is one. What ended it is in the trace.
    """

    body: Flow = Field(description="what is repeated")
    until: Flow | None = Field(None, description="judge that writes one bool; True ends the loop")
    at_most: int = Field(3, ge=1, le=1000, description="rounds at most")
    budget: Budget | None = Field(None, description="tokens, calls or seconds after which no further round begins")
    otherwise: Flow | None = Field(None, description="what runs when the judge was never content")

    def __init__(
        self,
        body: Flow,
        until: Flow | None = None,
        *,
        at_most: int = 3,
        budget: Budget | dict[str, float] | None = None,
        otherwise: Flow | None = None,
    ) -> None:
        Composite.__init__(self, body=body, until=until, at_most=at_most, budget=budget, otherwise=otherwise)


class Verify(Composite, form="verify"):
    """Run `body` again until `check` accepts what it made (model-based verification, arXiv:2407.21059, section 3.5).

    `check` ends in an operator that writes one bool. When nothing was accepted after `at_most` tries, the last result
    stays, after `otherwise`, if there is one, had its turn.
    """

    body: Flow = Field(description="what makes the result")
    check: Flow = Field(description="judge that writes one bool; True accepts")
    at_most: int = Field(3, ge=1, le=100, description="tries at most")
    budget: Budget | None = Field(None, description="tokens, calls or seconds after which no further try begins")
    otherwise: Flow | None = Field(None, description="what runs when nothing was accepted")

    def __init__(
        self,
        body: Flow,
        check: Flow,
        *,
        at_most: int = 3,
        budget: Budget | dict[str, float] | None = None,
        otherwise: Flow | None = None,
    ) -> None:
        Composite.__init__(self, body=body, check=check, at_most=at_most, budget=budget, otherwise=otherwise)


@traced
class LoopNode(Node):
    """Repeats a node; knows by which channel the judge says that it is enough."""

    def __init__(
        self,
        name: str,
        body: Node,
        judge: Node | None,
        verdict: str,
        at_most: int,
        budget: Budget | None,
        otherwise: Node | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.body, self.judge, self.otherwise = body, judge, otherwise
        self.verdict = verdict
        self.at_most = at_most
        self.budget = budget or Budget()
        self.clock = clock
        self.waits = any(node.waits for node in self._nodes())

    def bind(self, resolve: Resolve) -> None:
        for node in self._nodes():
            node.bind(resolve)

    def run(self, values: Channels, run: Run | None) -> None:
        began = self.clock()
        with metering() as meter:
            for number in range(1, self.at_most + 1):
                values["round"] = number
                self.body.run(values, run)
                if self.judge is not None:
                    self.judge.run(values, run)
                if self._ended(values, number, meter.usage, began, run):
                    break
        if self.otherwise is not None and not values.get(self.verdict):
            self.otherwise.run(values, run)

    async def arun(self, values: Channels, run: Run | None) -> None:
        began = self.clock()
        with metering() as meter:
            for number in range(1, self.at_most + 1):
                values["round"] = number
                await self.body.arun(values, run)
                if self.judge is not None:
                    await self.judge.arun(values, run)
                if self._ended(values, number, meter.usage, began, run):
                    break
        if self.otherwise is not None and not values.get(self.verdict):
            await self.otherwise.arun(values, run)

    def run_batch(self, batch: list[Channels], run: Run | None) -> None:
        began = self.clock()
        going = batch
        each = Usage()
        for number in range(1, self.at_most + 1):
            for values in going:
                values["round"] = number
            with metering() as meter:
                self.body.run_batch(going, run)
                if self.judge is not None:
                    self.judge.run_batch(going, run)
            each += _share(meter.usage, len(going))
            going = [v for v in going if not self._ended(v, number, each, began, run)]
            if not going:
                break
        refused = [values for values in batch if not values.get(self.verdict)]
        if self.otherwise is not None and refused:
            self.otherwise.run_batch(refused, run)

    def describe(self, depth: int = 0) -> Iterator[str]:
        indent = "  " * depth
        yield f"{indent}{self.name}, at most {self.at_most} rounds:"
        yield from self.body.describe(depth + 1)
        if self.judge is not None:
            yield f"{indent}{self.name} ends when {self.verdict!r} is true:"
            yield from self.judge.describe(depth + 1)
        if self.otherwise is not None:
            yield f"{indent}{self.name} otherwise:"
            yield from self.otherwise.describe(depth + 1)

    def _ended(self, values: Channels, number: int, usage: Usage, began: float, run: Run | None) -> bool:
        if self.judge is not None and values[self.verdict]:
            reason = f"{self.verdict!r} is true"
        elif number == self.at_most:
            reason = f"{self.at_most} rounds are the bound"
        else:
            reason = self.budget.spent(usage, self.clock() - began) or ""
        if run is not None:
            run.round_ended(self.name, number, reason)
        return bool(reason)

    def _nodes(self) -> list[Node]:
        return [node for node in (self.body, self.judge, self.otherwise) if node is not None]


def _share(usage: Usage, items: int) -> Usage:
    """An equal share of it, rounded up."""
    tokens = (usage.prompt_tokens, usage.completion_tokens, usage.calls)
    return Usage(*(-(-count // items) for count in tokens))


@compile_flow.register
def _loop(flow: Loop, scope: Scope, path: Path, checker: Checker) -> tuple[Node, Scope]:
    return _compile(flow, flow.until, "until", scope, path, checker)


@compile_flow.register
def _verify(flow: Verify, scope: Scope, path: Path, checker: Checker) -> tuple[Node, Scope]:
    return _compile(flow, flow.check, "check", scope, path, checker)


def _compile(
    flow: Loop | Verify, judge: Flow | None, field: str, scope: Scope, path: Path, checker: Checker
) -> tuple[Node, Scope]:
    name = checker.name(flow.form)
    scope = {**scope, "round": Slot(int, name)}
    body_path = (*path, flow.child_number("body"))
    # A trial tells what a round leaves for the next one; only then it is known what the body may read.
    _, left = compile_flow(flow.body, scope, body_path, checker.trial())
    entry = dict(scope)
    for channel, slot in left.items():
        before = scope.get(channel)
        if before is None:
            entry[channel] = replace(slot, sure=False)
        elif before is not slot:
            kind = before.type if before.type == slot.type else union_type([before.type, slot.type])
            entry[channel] = replace(before, type=kind, writes=before.writes | slot.writes)
            if before.spread != slot.spread:
                checker.problem(
                    name,
                    path,
                    f"channel {channel!r} holds {_values(before)} in its first round and {_values(slot)} after it",
                    "join the branches inside the body" if slot.spread else "join the branches before the loop",
                )
    body, after = compile_flow(flow.body, entry, body_path, checker)
    verdict, judge_node = "", None
    if judge is not None:
        judge_node, judged = compile_flow(judge, after, (*path, flow.child_number(field)), checker)
        written = {c: slot for c, slot in judged.items() if slot is not after.get(c)}
        verdicts = [c for c, slot in written.items() if slot.type is bool and slot.sure and not slot.spread]
        checker.read(*(written[c] for c in verdicts))
        if len(verdicts) != 1:
            found = f"it writes {', '.join(verdicts)}" if verdicts else "it writes none"
            checker.problem(
                name, path, f"its `{field}` must write one bool channel; {found}", "take an operator that judges"
            )
        verdict, after = (verdicts or [""])[0], judged
    otherwise = None
    if flow.otherwise is not None:
        if judge is None:
            message = "its `otherwise` is for a judge that is never content, and it has no judge"
            checker.problem(name, path, message, f"give it `{field}`, or put that flow after it")
        otherwise, end = compile_flow(flow.otherwise, after, (*path, flow.child_number("otherwise")), checker)
        after = merge_scopes([after, end], name, path, checker)
    return LoopNode(name, body, judge_node, verdict, flow.at_most, flow.budget, otherwise), after


def _values(slot: Slot) -> str:
    return "one value a branch" if slot.spread else "one value"
