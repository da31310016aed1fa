"""A node that runs one operator."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, get_origin

from rag.errors import OperatorError, RagError
from rag.operators.base import Operator
from rag.operators.signature import Form, Write, show_type
from rag.pipelines.events import Token
from rag.pipelines.execution import Run, Stopped, side_by_side, wait_for
from rag.pipelines.memo import MISS
from rag.pipelines.node import Channels, Node, Resolve
from rag.pipelines.observe import Execution
from rag.types import ChunkStore, Delta, Hits

__all__ = ["Argument", "Step"]

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Argument:
    """Where one parameter of an operator comes from. `wrap`: make a list of the channel's one value."""

    channel: str
    wrap: bool = False
    optional: bool = False
    default: Any = None


class Step(Node):
    """Runs one operator: takes its arguments from the channels, checks what it returns, writes that."""

    def __init__(self, name: str, operator: Operator, arguments: list[Argument]) -> None:
        signature = operator.signature()
        self.name = name
        self.operator = operator
        self.waits = operator.waits or signature.form in ("async", "async stream")
        self._form: Form = signature.form
        self._arguments = arguments
        self._channels = [a.channel for a in arguments]
        self._direct = not any(a.wrap or a.optional for a in arguments)
        self._writes = [(w, _checkable(w.type)) for w in signature.writes]
        self._record = signature.record
        self._resources: dict[str, Any] = {}
        self._call: Callable[..., Any] = operator.run
        self._batch_call: Callable[..., Any] | None = getattr(operator, "run_batch", None)

    def bind(self, resolve: Resolve) -> None:
        self._resources = {r.channel: resolve(self.name, r) for r in self.operator.signature().resources}
        if self._resources:
            self._call = functools.partial(self._call, **self._resources)
            if self._batch_call is not None:
                self._batch_call = functools.partial(self._batch_call, **self._resources)

    def run(self, values: Channels, run: Run | None) -> None:
        if run is None:
            self._run(values, None)
        else:
            with self._observed([values], run) as execution:
                self._run(values, run)
                execution.wrote = [self._written(values)]

    async def arun(self, values: Channels, run: Run | None) -> None:
        if run is None:
            await self._arun(values, None)
        else:
            with self._observed([values], run) as execution:
                await self._arun(values, run)
                execution.wrote = [self._written(values)]

    def run_batch(self, batch: list[Channels], run: Run | None) -> None:
        if run is None or not batch:
            self._run_all(batch, run)
        else:
            with self._observed(batch, run) as execution:
                self._run_all(batch, run)
                execution.wrote = [self._written(values) for values in batch]

    def describe(self, depth: int = 0) -> Iterator[str]:
        signature = self.operator.signature()
        reads = ", ".join(a.channel + ("?" if a.optional else "") for a in self._arguments) or "-"
        writes = ", ".join(w.channel for w in signature.writes) or "-"
        needs = "".join(f"  [{r.channel}]" for r in signature.resources)
        yield f"{'  ' * depth}{self.name}: {self.operator!r}   {reads} -> {writes}{needs}"

    def _run(self, values: Channels, run: Run | None) -> None:
        try:
            arguments = self._take(values)
            recall = _Recall(self, arguments, run) if run is not None and run.memos else None
            if recall is not None and recall.found:
                result = recall.result
            else:
                result = self._call(*arguments)
                if self._form != "plain":
                    result = self._finish(result, run)
                if recall is not None:
                    recall.keep(result)
            self._write(values, result)
        except Exception as error:  # noqa: BLE001  whatever an operator raises gets the node's name
            self._fail(error)

    def _run_all(self, batch: list[Channels], run: Run | None) -> None:
        if self._batch_call is not None:
            self._run_batch(batch, run)
        elif self.waits and len(batch) > 1:
            side_by_side([functools.partial(self._run, values, run) for values in batch])
        else:
            for values in batch:
                self._run(values, run)

    async def _arun(self, values: Channels, run: Run | None) -> None:
        try:
            arguments = self._take(values)
            recall = _Recall(self, arguments, run) if run is not None and run.memos else None
            if recall is not None and recall.found:
                result = recall.result
            else:
                result = await self._acall(arguments, run)
                if recall is not None:
                    recall.keep(result)
            self._write(values, result)
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def _run_batch(self, batch: list[Channels], run: Run | None) -> None:
        try:
            rows = [self._take(values) for values in batch]
            remembers = run is not None and run.memos
            results = self._remembered_batch(rows, run) if remembers else self._call_batch(rows)
            for values, result in zip(batch, results, strict=True):
                self._write(values, result)
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    async def _acall(self, arguments: list[Any], run: Run | None) -> Any:
        if self._form == "async":
            return await self._call(*arguments)
        if self._form == "async stream":
            return await self._drain(self._call(*arguments), run)
        if self.waits or self._form == "stream":
            return await asyncio.to_thread(lambda: self._finish(self._call(*arguments), run))
        return self._call(*arguments)

    def _call_batch(self, rows: list[list[Any]]) -> list[Any]:
        assert self._batch_call is not None
        results = self._batch_call(*([row[i] for row in rows] for i in range(len(self._arguments))))
        if not isinstance(results, list) or len(results) != len(rows):
            count = len(results) if isinstance(results, list) else show_type(type(results))
            raise OperatorError(f"run_batch got {len(rows)} items and returned {count}", hint="return one list")
        return results

    def _remembered_batch(self, rows: list[list[Any]], run: Run | None) -> list[Any]:
        """Results of a batch, of which only the items that are not remembered are computed, together."""
        assert run is not None
        recalls = [_Recall(self, row, run) for row in rows]
        missing = [i for i, recall in enumerate(recalls) if not recall.found]
        computed = self._call_batch([rows[i] for i in missing]) if missing else []
        for i, result in zip(missing, computed, strict=True):
            recalls[i].keep(result)
        return [recall.result for recall in recalls]

    def _take(self, values: Channels) -> list[Any]:
        if self._direct:
            return [values[channel] for channel in self._channels]
        taken = []
        for argument in self._arguments:
            value = values.get(argument.channel, _MISSING)
            if value is _MISSING:
                taken.append(argument.default)
            else:
                taken.append([value] if argument.wrap else value)
        return taken

    def _write(self, values: Channels, result: Any) -> None:
        if self._record:
            for (write, kind), value in zip(self._writes, result, strict=True):
                self._check(write, kind, value)
                values[write.channel] = value
        elif self._writes:
            write, kind = self._writes[0]
            self._check(write, kind, result)
            values[write.channel] = result

    def _observed(self, batch: list[Channels], run: Run) -> Execution:
        return Execution(
            run, self.name, "operator", batch, owner=self, operator=self.operator, resources=self._resources
        )

    def _written(self, values: Channels) -> Channels:
        return {write.channel: values[write.channel] for write, _ in self._writes}

    def _check(self, write: Write, kind: type | None, value: Any) -> None:
        if kind is not None and not isinstance(value, kind):
            raise OperatorError(
                f"{self.operator.operator_name} returned {show_type(type(value))} for channel {write.channel!r}, "
                f"its signature says {show_type(write.type)}"
            )

    def _finish(self, result: Any, run: Run | None) -> Any:
        """The value of a form that does not simply return it."""
        if self._form == "async":
            return wait_for(result)
        if self._form == "async stream":
            return wait_for(self._drain(result, run))
        if self._form == "plain":
            return result
        value: Any = _MISSING
        while True:
            try:
                item = next(result)
            except StopIteration as end:
                return self._streamed(value if end.value is None else end.value)
            if isinstance(item, Delta):
                if run is not None:
                    run.check()
                    run.emit(Token(self.name, item.text))
            else:
                value = item

    async def _drain(self, stream: Any, run: Run | None) -> Any:
        value: Any = _MISSING
        async for item in stream:
            if isinstance(item, Delta):
                if run is not None:
                    run.check()
                    run.emit(Token(self.name, item.text))
            else:
                value = item
        return self._streamed(value)

    def _streamed(self, value: Any) -> Any:
        if value is _MISSING:
            raise OperatorError("the stream ended without a result", hint="yield the result last, after the Deltas")
        return value

    def _fail(self, error: Exception) -> NoReturn:
        """Raise it with this node's name: an error of ours keeps its class, others become the cause of one."""
        if isinstance(error, RagError):
            error.node = error.node or self.name
            raise error
        if isinstance(error, Stopped):
            raise error
        wrapped = OperatorError(f"{type(error).__name__}: {error}")
        wrapped.node = self.name
        raise wrapped from error


class _Recall:
    """One execution of a step as the memos of a run know it."""

    __slots__ = ("_keys", "found", "result")

    def __init__(self, step: Step, arguments: list[Any], run: Run) -> None:
        resources = step._resources
        self._keys = [(memo, memo.key(step.name, step.operator, arguments, resources)) for memo in run.memos]
        self.result: Any = MISS
        for memo, key in self._keys:
            if key is not None and self.result is MISS:
                self.result = memo.get(key, _store([*resources.values(), *arguments]))
        self.found = self.result is not MISS
        if self.found:
            run.remembered(step.name)

    def keep(self, result: Any) -> None:
        self.result = result
        for memo, key in self._keys:
            if key is not None:
                memo.put(key, result)


def _store(values: list[Any]) -> ChunkStore | None:
    """Where the hits among the inputs, or of the collection that is bound, get their text from."""
    for value in values:
        if isinstance(value, Hits) and value.store is not None:
            return value.store
        if isinstance(value, list) and value and (store := _store(value)) is not None:
            return store
        if callable(getattr(value, "chunks", None)) and not isinstance(value, Hits):
            return value  # type: ignore[no-any-return]
    return None


def _checkable(kind: Any) -> type | None:
    """The class to hold a returned value against, or None where only the static check applies."""
    outer = get_origin(kind) or kind
    return outer if isinstance(outer, type) and outer is not object else None
