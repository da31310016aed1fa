"""Several pipelines over several collections, served: what HTTP and MCP have in common.

Requests are admitted up to a bound, coalesced into batches, limited in time, and counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from rag.collection import Collection
from rag.errors import ConfigError, DeadlineError, RagError, did_you_mean
from rag.kvcache.hosting import held_bytes
from rag.operators.retrieval import BM25, Dense, Fuse
from rag.pipelines import NodeFinished, NodeStarted, Noted, Pipeline, Run, Span, Token
from rag.pipelines.events import Event
from rag.pipelines.execution import Stopped
from rag.serve.coalesce import Coalescer
from rag.serve.highlights import HighlightsRequest, highlights
from rag.serve.metrics import Counter, Gauge, Histogram
from rag.serve.problems import BusyError, StoppingError, UnknownPipelineError, problem_of
from rag.serve.tools import Tool
from rag.serve.watch import brief

__all__ = ["Limits", "Progress", "Service", "search_pipeline"]

log = logging.getLogger("rag.serve")


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True)
class Limits:
    """What one service does at most. `seconds` a request, `requests` under way or waiting, `body` bytes a request.

    `max_batch` requests meet in one batch after waiting `max_wait` seconds at most while the service is busy; `at_once`
    batches and `streams` streamed runs go on at the same time. Collections are looked at every `refresh` seconds.
    """

    seconds: float = 60.0
    requests: int = 512
    body: int = 1 << 20
    max_batch: int = 32
    max_wait: float = 0.002
    at_once: int = 2
    streams: int = 32
    refresh: float = 5.0


@dataclass(frozen=True)
class Progress:
    """Something that happened in a streamed run: its kind (node_started, token, ...) and the facts, as JSON values."""

    kind: str
    data: dict[str, Any]


class Service:
    """Serves pipelines by name. Call `start` before the first request and `close` after the last.

    `collections` are told to look for new generations now and then. Raises ConfigError for two pipelines of one name or
    one whose inputs JSON cannot hold.
    """

    def __init__(
        self,
        pipelines: Iterable[Pipeline],
        *,
        collections: Mapping[str, Collection] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.collections = dict(collections or {})
        self.tools: dict[str, Tool] = {}
        for pipeline in pipelines:
            tool = Tool(pipeline)
            if tool.name in self.tools:
                raise ConfigError(f"two pipelines are called {tool.name!r}", hint="give one another `name:`")
            self.tools[tool.name] = tool
        self.closing = False
        self.requests = Counter("rag_requests_total", "Requests by pipeline and outcome.")
        self.seconds = Histogram("rag_request_seconds", "Seconds from request to result.", _SECONDS)
        self.batches = Histogram("rag_batch_size", "Requests that met in one batch.", (1, 2, 4, 8, 16, 32, 64, 128))
        self.node_seconds = Counter("rag_node_seconds_total", "Seconds spent in each node.")
        self.node_items = Counter("rag_node_items_total", "Items that each node handled.")
        self.under_way = Gauge("rag_requests_under_way", "Requests admitted and not yet answered.")
        self.prompt_tokens = Counter(
            "rag_kvcache_tokens_total", "Prompt tokens read with cached keys and values, by what became of them."
        )
        self.cached_chunks = Counter(
            "rag_kvcache_chunks_total", "Chunks in these prompts, by whether they were cached."
        )
        self.held = Gauge("rag_kvcache_bytes", "Bytes of keys and values held in memory by this process.")
        self._batching = ThreadPoolExecutor(self.limits.at_once * max(len(self.tools), 1), "rag-batch")
        self._streaming = ThreadPoolExecutor(self.limits.streams, "rag-serve-stream")
        self._coalescers = {name: self._coalescer(name, tool) for name, tool in self.tools.items()}
        self._runs: set[Run] = set()
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def metrics(self) -> list[Counter | Gauge | Histogram]:
        self.held.value = held_bytes()
        return [
            self.requests,
            self.under_way,
            self.seconds,
            self.batches,
            self.node_seconds,
            self.node_items,
            self.prompt_tokens,
            self.cached_chunks,
            self.held,
        ]

    def bind(self) -> Service:
        """Open all resources of all pipelines, so that what is missing is told before the first request."""
        for tool in self.tools.values():
            tool.pipeline.bind()
        for collection in self.collections.values():
            _ = collection.encoder
            if collection.has_tokens:
                _ = collection.token_encoder
        return self

    def start(self) -> None:
        """Begin to look for new generations of the collections; needs a running event loop."""
        if self.collections and self._refreshing is None:
            self._refreshing = asyncio.ensure_future(self._refresh())

    async def close(self) -> None:
        """Stop all runs at their next node, and end the threads."""
        self.closing = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        for run in list(self._runs):
            run.stop()
        for executor in (self._batching, self._streaming):
            await asyncio.to_thread(executor.shutdown, cancel_futures=True)

    def tool(self, name: str) -> Tool:
        """The tool of this name; UnknownPipelineError."""
        if name not in self.tools:
            raise UnknownPipelineError(f"there is no pipeline {name!r}", hint=did_you_mean(name, self.tools))
        return self.tools[name]

    async def run(self, name: str, arguments: Mapping[str, Any] | bytes) -> dict[str, Any]:
        """The result of one call as JSON values. Cancelling it withdraws the request.

        Raises UnknownPipelineError, InputError, BusyError, StoppingError, DeadlineError and what the run raises.
        """
        tool = self.tool(name)
        with self._counted(name):
            call = tool.parse(arguments)
            seconds = self.limits.seconds
            result: dict[str, Any] = await self._coalescers[name].run(
                call.inputs, lambda state: tool.result(state, call), seconds
            )
            return result

    async def stream(
        self, name: str, arguments: Mapping[str, Any] | bytes, *, watch: bool = False
    ) -> AsyncIterator[Progress]:
        """One run as it goes on: started, node_started, token, note, node_finished, at last finished with the result.

        With `watch` every node is followed by `wrote`, the values that it wrote. Closing the iterator stops the run at
        its next node. Raises as `run` does: for what is wrong with the call before `started`.
        """
        tool = self.tool(name)
        with self._counted(name):
            call = tool.parse(arguments)
            loop = asyncio.get_running_loop()
            queue: asyncio.Queue[Progress | Exception] = asyncio.Queue()

            def tell(item: Progress | Exception) -> None:
                with suppress(RuntimeError):  # the event loop was closed meanwhile, nobody listens
                    loop.call_soon_threadsafe(queue.put_nowait, item)

            def report(event: Event) -> None:
                for progress in _progress(event, watch):
                    tell(progress)

            run = Run(report, deadline=self.limits.seconds)

            def work() -> None:
                try:
                    state = tool.pipeline.run(call.inputs, observe=run)
                    tell(Progress("finished", {"result": tool.result(state, call)}))
                except Exception as error:  # noqa: BLE001  raised again where the events are read
                    tell(error)

            yield Progress("started", {"pipeline": name})
            self._runs.add(run)
            future = self._streaming.submit(work)
            try:
                while True:
                    left = max(self.limits.seconds - (run.clock() - run.began), 0)
                    item = await asyncio.wait_for(queue.get(), left)
                    if isinstance(item, Exception):
                        raise item
                    yield item
                    if item.kind == "finished":
                        return
            except Stopped:
                raise StoppingError from None
            except asyncio.TimeoutError as error:
                if isinstance(error, DeadlineError):
                    raise
                raise DeadlineError(f"the run took longer than {self.limits.seconds:g} s") from None
            finally:
                run.stop()
                future.cancel()
                self._runs.discard(run)
                self._note_spans(name, run.spans)

    async def highlights(self, name: str, arguments: Mapping[str, Any] | bytes) -> dict[str, Any]:
        """Which words of passages that a pipeline found matched which of a question; see `rag.serve.highlights`.

        Raises as `run` does, and NoHighlightsError.
        """
        pipeline = self.tool(name).pipeline
        with self._counted(f"{name}/highlights"):
            request = HighlightsRequest.parse(arguments)
            work = asyncio.get_running_loop().run_in_executor(self._streaming, highlights, pipeline, request)
            try:
                return await asyncio.wait_for(work, self.limits.seconds)
            except asyncio.TimeoutError:
                raise DeadlineError(f"it took longer than {self.limits.seconds:g} s") from None

    def _coalescer(self, name: str, tool: Tool) -> Coalescer:
        def observe(size: int, spans: Iterable[Span]) -> None:
            self.batches.observe(size, pipeline=name)
            self._note_spans(name, spans)

        limits = self.limits
        return Coalescer(
            tool.pipeline,
            self._batching,
            max_batch=limits.max_batch,
            max_wait=limits.max_wait,
            at_once=limits.at_once,
            observe=observe,
        )

    def _note_spans(self, name: str, spans: Iterable[Span]) -> None:
        for span in spans:
            if span.kind == "operator":
                self.node_seconds.add(span.seconds, pipeline=name, node=span.node)
                self.node_items.add(span.items, pipeline=name, node=span.node)
                for report in span.prefills:
                    for what in ("reused", "recomputed", "stored"):
                        self.prompt_tokens.add(getattr(report, what), pipeline=name, node=span.node, outcome=what)
                    self.cached_chunks.add(report.hits, pipeline=name, node=span.node, outcome="hit")
                    self.cached_chunks.add(report.misses, pipeline=name, node=span.node, outcome="miss")

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        """Admits one request, and counts it with its outcome and its seconds."""
        if self.closing:
            raise StoppingError
        if self.under_way.value >= self.limits.requests:
            self.requests.add(pipeline=name, outcome="busy")
            raise BusyError(f"{self.limits.requests} requests are under way already", hint="ask again in a second")
        self.under_way.value += 1
        began = time.perf_counter()
        outcome = "ok"
        try:
            yield
            self.seconds.observe(time.perf_counter() - began, pipeline=name)
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        except Exception as error:
            problem = problem_of(error)
            outcome = "rejected" if problem.status == 422 else "failed"
            if outcome == "failed":
                log.error("pipeline %s: %s", name, problem.detail.partition("\n")[0])
            raise
        finally:
            self.under_way.value -= 1
            self.requests.add(pipeline=name, outcome=outcome)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self.limits.refresh)
            for name, collection in self.collections.items():
                try:
                    await asyncio.to_thread(collection.refresh)
                except RagError as error:  # what was open before goes on being served
                    log.error("collection %s: %s", name, error)


def _progress(event: Event, watch: bool) -> Iterator[Progress]:
    """An event of a run as progress; with `watch`, the values that a node wrote too."""
    if isinstance(event, NodeStarted):
        yield Progress("node_started", {"node": event.node})
    elif isinstance(event, Token):
        yield Progress("token", {"node": event.node, "text": event.text})
    elif isinstance(event, Noted):
        yield Progress("note", {"node": event.node, "text": event.text})
    elif isinstance(event, NodeFinished):
        data: dict[str, Any] = {"node": event.node, "seconds": round(event.seconds, 6)}
        if event.usage.calls:
            data["tokens"] = [event.usage.prompt_tokens, event.usage.completion_tokens]
        if event.error:
            data["failed"] = True  # no more than that: the reason may hold a secret
        yield Progress("node_finished", data)
        for item, wrote in enumerate(event.wrote if watch else ()):
            channels = {channel: brief(value) for channel, value in wrote.items()}
            yield Progress("wrote", {"node": event.node, "item": item, "channels": channels})


def search_pipeline(collection: Collection, name: str = "search") -> Pipeline:
    """Hybrid retrieval over one collection, as every collection is served with."""
    return Pipeline(
        (Dense() | BM25()) >> Fuse(k=1000),
        collection=collection,
        name=name,
        description="Find the passages of the indexed documents that fit a question or some words best.",
    )
