"""Who may ask: the check of host and token before every request, and the headers that keep a browser strict."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag.errors import ConfigError, RagError
from rag.serve.http.exchange import HttpError, problem_response
from rag.serve.problems import problem_of

__all__ = ["Guard", "check_exposure", "is_loopback"]

log = logging.getLogger("rag.serve")

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
_OPEN = ("/healthz", "/readyz")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token: str | None, token_env: str) -> None:
    """Raises ConfigError when others could reach the service and nothing keeps them out."""
    if token is not None and len(token) < 16:
        raise ConfigError(f"the token in {token_env} has {len(token)} characters", hint="use 16 or more, at random")
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"serving on {host} lets other machines in, and there is no token",
            hint=f"set {token_env}, e.g. export {token_env}=$(openssl rand -hex 24), or serve on 127.0.0.1",
        )


class Guard:
    """Lets a request pass that knows the token or, where there is none, names this machine as its host.

    The latter keeps out pages of other sites that had their name resolve to this machine (DNS rebinding). Health and
    the files of the page need no token. Whatever goes wrong inside ends as a problem, never as a traceback.
    """

    def __init__(self, app: ASGIApp, token: str | None = None, open_to_all: tuple[str, ...] = ()) -> None:
        self._app = app
        self._token = token.encode() if token is not None else None
        self._open = (*_OPEN, *open_to_all)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def strict_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope["path"], Headers(scope=scope))
            await self._app(scope, receive, strict_send)
        except ClientDisconnect:
            pass
        except Exception as error:  # noqa: BLE001  the last place where it can be told in our form
            problem = error.problem if isinstance(error, HttpError) else problem_of(error)
            if not isinstance(error, HttpError | RagError):
                log.error("%s %r: %s", scope["method"], scope["path"], problem.detail)
            if status == 0:
                await problem_response(problem)(scope, receive, strict_send)
        finally:
            log.info("%s %r %s %.1f ms", scope["method"], scope["path"], status, (time.perf_counter() - began) * 1000)

    def _check(self, path: str, headers: Headers) -> None:
        if self._token is None:
            host = headers.get("host", "")
            name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
            if not is_loopback(name):
                raise HttpError(
                    421, "Misdirected request", f"this service is not {host[:200]!r}", "ask localhost or 127.0.0.1"
                )
            return
        if path in self._open:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            raise HttpError(
                401, "Not authorized", "the token is missing or wrong", "send the header Authorization: Bearer TOKEN"
            )
