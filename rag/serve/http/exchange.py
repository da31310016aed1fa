"""Reading requests and writing responses: bodies of bounded size, JSON, problems, streams of events."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rag.serve.problems import Problem, problem_of
from rag.serve.service import Limits, Progress

__all__ = ["EventStream", "HttpError", "disconnected", "json_response", "problem_response", "read_body"]

_KEEP_ALIVE = 15.0
"""Seconds without an event after which a comment is sent, so that nothing between takes the connection for dead."""


class HttpError(Exception):
    """Ends a request with a problem that is about HTTP itself."""

    def __init__(self, status: int, title: str, detail: str, hint: str | None = None) -> None:
        super().__init__(detail)
        self.problem = Problem(status, title, detail, hint)


def json_response(value: Any, status: int = 200) -> Response:
    """JSON; numbers that JSON has not (NaN, infinities) become null."""
    return Response(to_json(value, inf_nan_mode="null"), status, media_type="application/json")


def problem_response(problem: Problem, retry_after: float = 1.0) -> Response:
    """A problem document; a caller that came at a bad moment is told when to come again."""
    headers = {"Retry-After": str(math.ceil(retry_after))} if problem.status in (429, 503) else {}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(to_json(problem.as_json()), problem.status, headers, "application/problem+json")


async def read_body(request: Request, limits: Limits) -> bytes:
    """The JSON body; HttpError when it is too large, comes too slowly, or is not declared as JSON.

    That it must be declared keeps pages of other origins out: a browser sends such a request only after asking.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HttpError(
            415, "Unsupported media type", f"the body is {kind or 'of no type'}", "send Content-Type: application/json"
        )
    too_large = HttpError(413, "Request too large", f"the body has more than {limits.body} bytes", "ask for less")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.body:
        raise too_large

    async def read() -> bytes:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > limits.body:
                raise too_large
        return body

    try:
        return await asyncio.wait_for(read(), limits.seconds)
    except asyncio.TimeoutError:
        raise HttpError(408, "Request too slow", f"the body took longer than {limits.seconds:g} s") from None


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone; to be awaited after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends progress as server-sent events; stops the run when the client goes."""

    def __init__(self, first: Progress, events: AsyncIterator[Progress]) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._first = first
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(disconnected(receive))
        upcoming: asyncio.Future[Progress] | None = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._send(send, self._first.kind, self._first.data)
            while True:
                upcoming = upcoming or asyncio.ensure_future(anext(self._events))
                await asyncio.wait((gone, upcoming), timeout=_KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return
                if not upcoming.done():
                    await send({"type": "http.response.body", "body": b": still here\n\n", "more_body": True})
                    continue
                try:
                    event = upcoming.result()
                except StopAsyncIteration:
                    break
                except Exception as error:  # noqa: BLE001  told as the last event: the status has been sent
                    await self._send(send, "error", problem_of(error).as_json())
                    break
                upcoming = None
                await self._send(send, event.kind, event.data)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            if upcoming is not None:
                upcoming.cancel()
            with suppress(BaseException):
                await asyncio.gather(gone, *([upcoming] if upcoming else []), return_exceptions=True)
            await self._events.aclose()  # type: ignore[attr-defined]

    async def _send(self, send: Send, kind: str, data: dict[str, Any]) -> None:
        body = b"event: " + kind.encode() + b"\ndata: " + to_json(data, inf_nan_mode="null") + b"\n\n"
        await send({"type": "http.response.body", "body": body, "more_body": True})
