"""The command `rag serve`: pipelines over HTTP and for agents."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag.errors import ConfigError, MissingExtraError
from rag.serve import show

if TYPE_CHECKING:
    from rag.pipelines import Pipeline
    from rag.serve.service import Limits, Service

__all__ = ["add_to", "open_service"]


class Protocol(str, Enum):
    """Ways in which agents reach the tools."""

    stdio = "stdio"
    http = "http"


def serve(
    pipelines: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PIPELINE]...", help="Pipeline files or names of ready-made pipelines."),
    ] = None,
    collection: Annotated[
        list[str] | None,
        typer.Option("--collection", "-c", metavar="[NAME=]KB", help="Collection to serve; several need names."),
    ] = None,
    llm: Annotated[str | None, typer.Option(help="Language model to use, e.g. openai:gpt-4o-mini.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    token_env: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable that holds the token.")
    ] = "RAG_TOKEN",  # noqa: S107  the name of a variable
    mcp: Annotated[
        Protocol | None, typer.Option(help="Offer the pipelines to agents: over stdio only, or at /mcp.")
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="Serve a page that shows pipelines and runs questions.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that one request may take.")] = 60.0,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests under way at once; more are refused.")] = 512,
    max_body: Annotated[int, typer.Option(min=1024, help="Bytes that one request may have.")] = 1 << 20,
) -> None:
    """Serve pipelines over HTTP, and to agents over the Model Context Protocol.

    Every collection also gets a pipeline `search`. Without a PIPELINE an answering one is served with it.
    """
    from rag.serve.config import load_config
    from rag.serve.service import Limits

    limits = Limits(seconds=timeout, requests=max_requests, body=max_body)
    token = os.environ.get(token_env) or None
    if mcp is Protocol.stdio:
        if ui:
            raise ConfigError("--mcp stdio has no page", hint="serve the page with --mcp http --ui")
        import asyncio

        from rag.serve.mcp import serve_stdio

        with open_service(pipelines or [], collection or [], llm or load_config().llm, limits) as service:
            asyncio.run(serve_stdio(service))
        return
    try:
        import uvicorn

        from rag.serve.http import make_app
        from rag.serve.http.guard import check_exposure
    except ImportError:
        raise MissingExtraError("serving", "serve") from None

    check_exposure(host, token, token_env)
    with open_service(pipelines or [], collection or [], llm or load_config().llm, limits) as service:
        app = make_app(service, token=token, ui=ui, mcp=mcp is Protocol.http)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
        )
        with _listener(host, port) as listener:
            _log_to_stderr()
            _announce(service, host, listener.getsockname()[1], ui=ui, mcp=mcp is not None)
            uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def open_service(
    names: list[str], collections: list[str], llm: str | None, limits: Limits | None = None
) -> Iterator[Service]:
    """The service of these pipelines over these collections (KB, or NAME=KB), everything opened.

    With several collections every pipeline is served once for each, as NAME_PIPELINE. What several pipelines name,
    a model or a collection, is opened once; the collections are closed when the block ends. Raises what opening raises,
    so that a service that starts can answer.
    """
    from rag.collection import Collection
    from rag.serve.service import Service, search_pipeline

    paths = _named(collections)
    if not names and not paths:
        raise ConfigError("there is nothing to serve", hint="name a pipeline, or a collection with -c")
    names = names or ["naive" if llm else "extractive"]
    shared: dict[tuple[str, str], Any] = {}
    ready: list[Pipeline] = []
    opened: dict[str, Collection] = {}
    try:
        for name, path in paths.items():
            opened[name] = Collection.open(path)
        for key, collection in opened.items() or [("", None)]:
            prefix = f"{key}_" if len(opened) > 1 else ""
            ready += [_open(name, prefix, collection, llm, shared) for name in names]
            if collection is not None and all(p.name != f"{prefix}search" for p in ready):
                ready.append(search_pipeline(collection, f"{prefix}search"))
        everything = {**_collections(shared), **opened}
        yield Service(ready, collections=everything, limits=limits).bind()
    finally:
        for collection in (*opened.values(), *_collections(shared).values()):
            collection.close()


def _collections(shared: dict[tuple[str, str], Any]) -> dict[str, Any]:
    """Those that pipelines name by themselves, by path."""
    return {path: value for (kind, path), value in shared.items() if kind == "collection"}


def _open(name: str, prefix: str, collection: Any, llm: str | None, shared: dict[tuple[str, str], Any]) -> Pipeline:
    """A pipeline under its served name; resources that it and the pipelines within it name alike are opened once."""
    from rag.collection import Collection
    from rag.encoders import load as load_encoder
    from rag.models import load as load_model
    from rag.serve.pipelines import open_pipeline

    openers: dict[str, Callable[[str], Any]] = {
        "collection": Collection.open,
        "llm": load_model,
        "encoder": load_encoder,
    }
    pipeline: Pipeline = open_pipeline(name, collection=collection, llm=llm)
    for part in (pipeline, *pipeline.parts):
        for key, value in part.resources.items():
            if isinstance(value, str) and key in openers:
                if (key, value) not in shared:
                    shared[key, value] = openers[key](value)
                part.resources[key] = shared[key, value]
    pipeline.name = prefix + (pipeline.name or Path(name).stem)
    return pipeline


def _named(collections: list[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for given in collections:
        name, _, path = given.rpartition("=")
        name = name or Path(path).name
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            name = re.sub(r"[^A-Za-z0-9_-]", "_", name)
        if name in named:
            raise ConfigError(f"two collections are called {name!r}", hint="name them: -c law=kb1 -c news=kb2")
        named[name] = path
    return named


def _listener(host: str, port: int) -> socket.socket:
    """The listening socket; bound here so that a port in use is an error in our form."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", hint="take another: --port 0") from None
    return listener


def _log_to_stderr() -> None:
    """One line a request and a failure, without arguments and tokens."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("rag.serve")
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def _announce(service: Service, host: str, port: int, *, ui: bool, mcp: bool) -> None:
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    places = {"page": f"{base}/"} if ui else {}
    places |= {"API": f"{base}/openapi.json"} | ({"MCP": f"{base}/mcp"} if mcp else {})
    console = show.stderr()
    console.print(f"serving {', '.join(service.tools)}", markup=False)
    for what, where in places.items():
        console.print(f"  [bold]{what:<5}[/] {where}")


def add_to(app: typer.Typer) -> None:
    app.command()(serve)
