"""Spans of OpenTelemetry for observed runs, by the semantic conventions for generative AI.

They are made when a tracer provider is set, and then for every run: `invoke_workflow` for the pipeline, and inside it
one for each operator and each flow, nested as they run. An operator's operation is `retrieval`, `embeddings` or `chat`,
by the resource that it works with, otherwise `execute_tool`; what the conventions have no name for begins with `rag.`.
What documents, questions and models say is left out, unless the environment variable CAPTURE is `true`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from rag.pipelines.summary import size
from rag.types import Answer, Hits, Message, Query, Usage

if TYPE_CHECKING:
    from rag.models import Completion
    from rag.pipelines.observe import Execution

__all__ = ["CAPTURE", "CONVENTIONS", "record_call", "recorder", "tracing"]

CONVENTIONS = "semantic-conventions-genai 0.1.0"
"""The version of the conventions that the names in this module follow, and no other module has any."""

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The environment variable that lets contents into spans: questions, hits, prompts and answers."""

_CLIENT = ("chat", "embeddings", "retrieval")
_EMBEDDING = ("retrieval.embed_query",)
"""Operators that embed with the collection's own encoder."""


def tracing() -> bool:
    """Whether a tracer provider is set. Costs nothing to speak of where OpenTelemetry was never imported."""
    return _provider() is not None


def recorder() -> Callable[[Execution], _SpanRecorder] | None:
    """What begins a span for an execution; None when no tracer provider is set."""
    provider = _provider()
    if provider is None:
        return None
    tracer = provider.get_tracer("rag", attributes={"rag.conventions": CONVENTIONS})
    return lambda execution: _SpanRecorder(tracer, execution)


def record_call(name: str, messages: Sequence[Message], settings: Mapping[str, Any], completion: Completion) -> None:
    """Add one call of a language model to the span around it."""
    trace = sys.modules.get("opentelemetry.trace")
    span = None if trace is None else trace.get_current_span()
    if span is None or not span.is_recording():
        return
    span.set_attribute("gen_ai.response.finish_reasons", [completion.finish])
    for setting in ("max_tokens", "temperature"):
        if setting in settings:
            span.set_attribute(f"gen_ai.request.{setting}", settings[setting])
    if _captures():
        span.add_event(
            "gen_ai.client.inference.operation.details",
            {
                "gen_ai.request.model": _model(name)[1],
                "gen_ai.input.messages": _messages(messages),
                "gen_ai.output.messages": _messages([Message("assistant", completion.text)]),
            },
        )


class _SpanRecorder:
    """One span, current from the beginning of an execution to its end."""

    def __init__(self, tracer: Any, execution: Execution) -> None:
        from opentelemetry import context, trace

        name, attributes = _described(execution)
        operation = attributes.get("gen_ai.operation.name")
        if _captures():
            attributes |= _given(execution, operation)
        kind = trace.SpanKind.CLIENT if operation in _CLIENT else trace.SpanKind.INTERNAL
        self._span = tracer.start_span(name, kind=kind, attributes=attributes)
        self._token = context.attach(trace.set_span_in_context(self._span))

    def end(self, execution: Execution, error: BaseException | None) -> None:
        from opentelemetry import context

        if self._span.is_recording():
            self._tell(execution, error)
        context.detach(self._token)
        self._span.end()

    def _tell(self, execution: Execution, error: BaseException | None) -> None:
        span = self._span
        usage: Usage = execution.usage
        if usage.calls:
            span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
            span.set_attribute("rag.calls", usage.calls)
            if usage.cached_tokens:
                span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens)
        if prefills := execution.prefills:
            span.set_attribute("rag.kvcache.recomputed", sum(report.recomputed for report in prefills))
            span.set_attribute("rag.kvcache.stored", sum(report.stored for report in prefills))
            span.set_attribute("rag.kvcache.exact", all(report.exact for report in prefills))
        if execution.remembered:
            span.set_attribute("rag.cache.hits", execution.remembered)
        for fact, values in execution.facts.items():
            span.set_attribute(f"rag.{fact}", values[0] if len(values) == 1 else values)
        for channel in execution.wrote[0] if execution.wrote else ():
            sizes = [size(item[channel]) for item in execution.wrote]
            if None not in sizes:
                span.set_attribute(f"rag.wrote.{channel}", sum(n or 0 for n in sizes))
        if _captures():
            span.set_attributes(_made(execution))
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            cause = error.__cause__ or error  # an exception that is not ours is the cause of one that names the node
            span.set_attribute("error.type", type(cause).__qualname__)
            span.set_status(Status(StatusCode.ERROR, str(error)))
            if execution.operator is not None:
                span.record_exception(cause)


def _provider() -> Any | None:
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider) else provider


def _captures() -> bool:
    return os.environ.get(CAPTURE, "").casefold() == "true"


def _described(execution: Execution) -> tuple[str, dict[str, Any]]:
    """The name of a span and the attributes that it begins with."""
    attributes: dict[str, Any] = {"rag.node": execution.node, "rag.items": execution.items}
    if execution.around is not None and execution.around.round:
        attributes["rag.round"] = execution.around.round
    if execution.kind == "pipeline":
        attributes |= {"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": execution.node}
        return f"invoke_workflow {execution.node}", attributes
    if execution.operator is None:
        return execution.node, attributes
    target, more = _operation(execution)
    return f"{more['gen_ai.operation.name']} {target}".strip(), {**attributes, **more}


def _operation(execution: Execution) -> tuple[str, dict[str, Any]]:
    """What an operator's span is about, and the attributes that say so, by the resources that it is bound to."""
    from rag.operators.resources import ChatModel, Collection, Encoder

    operator = execution.operator
    assert operator is not None
    signature = operator.signature()
    bound = {need.type: execution.resources.get(need.channel) for need in signature.resources}
    name = operator.operator_name
    if (llm := bound.get(ChatModel)) is not None:
        provider, model = _model(llm.name)
        return model, {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": model,
        }
    collection = bound.get(Collection)
    encoder = bound.get(Encoder) or (collection.encoder if collection is not None and name in _EMBEDDING else None)
    if encoder is not None:
        provider, model = _model(encoder.name)
        return model, {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": model,
        }
    finds = any(write.type is Hits for write in signature.writes)
    if collection is not None and finds and not any(read.channel == "hits" for read in signature.reads):
        source = PurePath(str(getattr(collection, "path", ""))).name
        attributes: dict[str, Any] = {"gen_ai.operation.name": "retrieval", "gen_ai.data_source.id": source}
        k = getattr(operator, "k", None)
        if isinstance(k, int):
            attributes["gen_ai.retrieval.top_k"] = k
        return source, attributes
    return name, {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, "gen_ai.tool.type": "function"}


def _model(name: str) -> tuple[str, str]:
    """Provider and model of "provider:model@address" or of a local name, without folders and addresses."""
    provider, _, model = name.partition(":")
    if not model:
        provider, model = "local", name
    return provider, PurePath(model.partition("@")[0]).name


def _given(execution: Execution, operation: Any) -> dict[str, str]:
    """The question that an execution of one item begins with, where the conventions have a place for it."""
    query = execution.batch[0].get("query") if execution.items == 1 else None
    if not isinstance(query, Query):
        return {}
    if operation == "invoke_workflow":
        return {"gen_ai.input.messages": _messages([Message("user", query.text)])}
    return {"gen_ai.retrieval.query.text": query.text} if operation == "retrieval" else {}


def _made(execution: Execution) -> dict[str, str]:
    """What an execution of one item ended with: the answer of a pipeline, the hits that an operator wrote."""
    contents = {}
    if execution.kind == "pipeline" and execution.items == 1:
        answer = execution.batch[0].get("answer")
        if isinstance(answer, Answer):
            contents["gen_ai.output.messages"] = _messages([Message("assistant", answer.text)])
    elif len(execution.wrote) == 1 and isinstance(hits := execution.wrote[0].get("hits"), Hits):
        found = zip(hits.ids.tolist(), hits.scores.tolist(), strict=True)
        contents["gen_ai.retrieval.documents"] = json.dumps([{"id": str(i), "score": s} for i, s in found])
    return contents


def _messages(messages: Sequence[Message]) -> str:
    return json.dumps(
        [{"role": m.role, "parts": [{"type": "text", "content": m.content}]} for m in messages], ensure_ascii=False
    )
