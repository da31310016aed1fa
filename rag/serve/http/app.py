"""The web application: routes over a service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

import rag
from rag.serve.highlights import explains
from rag.serve.http.exchange import EventStream, disconnected, json_response, problem_response, read_body
from rag.serve.http.guard import Guard
from rag.serve.http.openapi import openapi
from rag.serve.metrics import exposition
from rag.serve.problems import Problem
from rag.serve.service import Service
from rag.serve.tools import Tool
from rag.serve.watch import plan_tree

__all__ = ["make_app"]

_PAGE = Path(__file__).parent.parent / "ui"
_PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/ui/app.js": ("app.js", "text/javascript"),
    "/ui/elements.js": ("elements.js", "text/javascript"),
    "/ui/events.js": ("events.js", "text/javascript"),
    "/ui/graph.js": ("graph.js", "text/javascript"),
    "/ui/passage.js": ("passage.js", "text/javascript"),
    "/ui/results.js": ("results.js", "text/javascript"),
    "/ui/style.css": ("style.css", "text/css"),
    "/ui/icon.svg": ("icon.svg", "image/svg+xml"),
}


def make_app(service: Service, *, token: str | None = None, ui: bool = False, mcp: bool = False) -> Starlette:
    """The ASGI application that serves `service`; its lifespan starts and closes it.

    With a `token` every request but those for health and the page must carry it; without one, requests must be meant
    for this machine. `ui` adds the page at `/`, `mcp` the Model Context Protocol at `/mcp`.
    """
    api = _Api(service, token is not None)
    routes: list[BaseRoute] = [
        Route("/v1/pipelines", api.pipelines),
        Route("/v1/pipelines/{name}", api.pipeline),
        Route("/v1/pipelines/{name}/run", api.run, methods=["POST"]),
        Route("/v1/pipelines/{name}/stream", api.stream, methods=["POST"]),
        Route("/v1/pipelines/{name}/highlights", api.highlights, methods=["POST"]),
        Route("/openapi.json", api.openapi),
        Route("/healthz", api.health),
        Route("/readyz", api.ready),
        Route("/metrics", api.metrics),
    ]
    routes += [Route(path, _page_file(*file)) for path, file in _PAGE_FILES.items()] if ui else [Route("/", api.index)]
    manager: Any = None
    if mcp:
        from rag.serve.mcp import http_manager

        manager, endpoint = http_manager(service)
        routes.append(Route("/mcp", endpoint))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            service.start()
            stack.push_async_callback(service.close)
            if manager is not None:
                await stack.enter_async_context(manager.run())
            yield

    guard = Middleware(Guard, token=token, open_to_all=tuple(_PAGE_FILES) if ui else ())
    return Starlette(
        routes=routes,
        middleware=[guard],
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_problem},
    )


class _Api:
    """What answers each route."""

    def __init__(self, service: Service, token: bool) -> None:
        self._service = service
        self._token = token

    async def index(self, request: Request) -> Response:
        names = list(self._service.tools)
        return json_response({"name": "modular-rag", "version": rag.__version__, "pipelines": names})

    async def pipelines(self, request: Request) -> Response:
        return json_response({"pipelines": [_described(tool) for tool in self._service.tools.values()]})

    async def pipeline(self, request: Request) -> Response:
        tool = self._service.tool(request.path_params["name"])
        more = {"graph": plan_tree(tool.pipeline), "highlights": explains(tool.pipeline)}
        return json_response({**_described(tool), **more})

    async def run(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._service.tool(name)
        body = await read_body(request, self._service.limits)
        running = asyncio.ensure_future(self._service.run(name, body))
        gone = asyncio.ensure_future(disconnected(request.receive))
        try:
            await asyncio.wait((running, gone), return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                return Response(status_code=499)  # the client has gone, nobody reads this
            return json_response(running.result())
        finally:
            for task in (running, gone):
                task.cancel()
            await asyncio.gather(running, gone, return_exceptions=True)

    async def stream(self, request: Request) -> Response:
        name = request.path_params["name"]
        body = await read_body(request, self._service.limits)
        watch = request.query_params.get("watch", "").lower() in ("1", "true", "yes")
        events = self._service.stream(name, body, watch=watch)
        return EventStream(await anext(events), events)

    async def highlights(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._service.tool(name)
        body = await read_body(request, self._service.limits)
        return json_response(await self._service.highlights(name, body))

    async def openapi(self, request: Request) -> Response:
        return json_response(openapi(self._service, token=self._token))

    async def health(self, request: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        service = self._service
        if service.closing or service.under_way.value >= service.limits.requests:
            why = "the service is stopping" if service.closing else "too many requests are under way"
            return problem_response(Problem(503, "Not available", why))
        return json_response({"status": "ready", "pipelines": list(service.tools)})

    async def metrics(self, request: Request) -> Response:
        return Response(exposition(self._service.metrics), media_type="text/plain; version=0.0.4")


def _described(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "arguments": tool.input_schema(),
        "result": tool.output_schema(),
    }


def _page_file(name: str, kind: str) -> Any:
    async def respond(request: Request) -> Response:
        return FileResponse(_PAGE / name, media_type=kind, headers={"Cache-Control": "no-cache"})

    return respond


async def _http_problem(request: Request, error: Exception) -> Response:
    """What routing itself refuses (no such path, wrong method), as a problem."""
    assert isinstance(error, HTTPException)
    response = problem_response(Problem(error.status_code, error.detail, f"{request.method} {request.url.path}"))
    response.headers.update(error.headers or {})
    return response
