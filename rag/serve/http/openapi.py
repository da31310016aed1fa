"""The OpenAPI 3.1 description of a service, made from the schemas of its pipelines."""

from __future__ import annotations

from typing import Any

import rag
from rag.serve.highlights import Highlights, HighlightsRequest, collection_of
from rag.serve.service import Service
from rag.serve.tools import Tool, without_titles

__all__ = ["openapi"]

_REFS = "#/components/schemas/{model}"
_PROBLEMS = {
    "401": "the token is missing or wrong",
    "404": "there is no such pipeline, or passage",
    "408": "the body came too slowly",
    "413": "the request is too large",
    "415": "the body is not declared as JSON",
    "422": "an argument is wrong or missing",
    "429": "too many requests are under way",
    "500": "the pipeline failed",
    "502": "a model failed or cannot be reached",
    "503": "the service is stopping",
    "504": "the run took too long",
}


def openapi(service: Service, *, token: bool) -> dict[str, Any]:
    """The description as a dictionary; `token` says whether requests need one."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    paths: dict[str, Any] = {
        "/v1/pipelines": {"get": _get("listPipelines", "List the pipelines with the schemas of their arguments.")},
        "/v1/pipelines/{name}": {
            "get": {
                **_get("describePipeline", "One pipeline with the tree of its nodes."),
                "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"enum": [*service.tools]}}],
            }
        },
        "/healthz": {"get": _get("health", "Whether the process lives.")},
        "/readyz": {"get": _get("ready", "Whether it takes requests.")},
        "/metrics": {"get": _text("metrics", "Counters as Prometheus reads them.", "text/plain")},
    }
    for tool in service.tools.values():
        paths |= _paths(tool, schemas)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "modular-rag", "version": rag.__version__, "description": "Pipelines served over HTTP."},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if token:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


def _paths(tool: Tool, schemas: dict[str, Any]) -> dict[str, Any]:
    for role, schema in (("Arguments", tool.input_schema(_REFS)), ("Result", tool.output_schema(_REFS))):
        schemas.update(schema.pop("$defs", {}))
        schemas[f"{tool.name}_{role}"] = schema
    body = {"required": True, "content": _content("application/json", _ref(f"{tool.name}_Arguments"))}
    problems = {
        status: {"description": text, "content": _content("application/problem+json", _ref("Problem"))}
        for status, text in _PROBLEMS.items()
    }
    run = {
        "operationId": f"run_{tool.name}",
        "summary": tool.description,
        "requestBody": body,
        "responses": {
            "200": {
                "description": "the result",
                "content": _content("application/json", _ref(f"{tool.name}_Result")),
            },
            **problems,
        },
    }
    watch = {
        "name": "watch",
        "in": "query",
        "description": "also send `wrote` events with what each node wrote",
        "schema": {"type": "boolean", "default": False},
    }
    stream = {
        "operationId": f"stream_{tool.name}",
        "summary": f"{tool.description} Told while it goes on.",
        "parameters": [watch],
        "requestBody": body,
        "responses": {
            "200": {
                "description": "server-sent events: started, node_started, token, note, node_finished, finished, error",
                "content": _content("text/event-stream", {"type": "string"}),
            },
            **problems,
        },
    }
    base = f"/v1/pipelines/{tool.name}"
    paths = {f"{base}/run": {"post": run}, f"{base}/stream": {"post": stream}}
    if collection_of(tool.pipeline) is not None:
        paths[f"{base}/highlights"] = {"post": _highlights(tool, schemas, problems)}
    return paths


def _highlights(tool: Tool, schemas: dict[str, Any], problems: dict[str, Any]) -> dict[str, Any]:
    for model in (HighlightsRequest, Highlights):
        schema = without_titles(model.model_json_schema(ref_template=_REFS))
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    return {
        "operationId": f"highlights_{tool.name}",
        "summary": "Which words of passages that were found matched which of the question.",
        "requestBody": {"required": True, "content": _content("application/json", _ref("HighlightsRequest"))},
        "responses": {
            "200": {"description": "the matches", "content": _content("application/json", _ref("Highlights"))},
            **problems,
        },
    }


def _get(name: str, summary: str) -> dict[str, Any]:
    return _text(name, summary, "application/json")


def _text(name: str, summary: str, kind: str) -> dict[str, Any]:
    schema = {"type": "object"} if kind == "application/json" else {"type": "string"}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": summary, "content": _content(kind, schema)}},
    }


def _content(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {kind: {"schema": schema}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REFS.format(model=name)}


_PROBLEM = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "required": ["title", "status", "detail"],
    "properties": {
        "title": {"type": "string", "description": "the kind of problem"},
        "status": {"type": "integer", "description": "the HTTP status"},
        "detail": {"type": "string", "description": "this case of it"},
        "hint": {"type": "string", "description": "what to do"},
        "node": {"type": "string", "description": "the node of the pipeline in which it happened"},
    },
}
