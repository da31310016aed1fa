"""OpenAI-compatible endpoints: how they are named, the client, and what becomes of its errors (extra `openai`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rag.errors import ConfigError, MissingExtraError, ModelError, RagError

__all__ = ["client_settings", "endpoint_errors", "estimate_tokens", "import_openai", "split_spec"]

_PIECES = re.compile(r"\w+|[^\w\s]")


def split_spec(spec: str) -> tuple[str, str | None]:
    """("MODEL", "BASE_URL" or None) from "MODEL" or "MODEL@BASE_URL"; ConfigError when the model's name is missing."""
    model, at, url = spec.partition("@http")
    if not model.strip():
        raise ConfigError(f"'openai:{spec}' names no model", hint="openai:MODEL or openai:MODEL@BASE_URL")
    return model.strip(), f"http{url}" if at else None


def import_openai() -> Any:
    """The module `openai`; MissingExtraError when it is not installed."""
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError("an OpenAI-compatible endpoint", "openai") from error
    return openai


def client_settings(base_url: str | None, timeout: float, retries: int) -> dict[str, Any]:
    """Arguments for the client. The key is read from OPENAI_API_KEY; an endpoint named by its URL may need none."""
    import_openai()  # a missing extra comes before a missing key
    key = os.environ.get("OPENAI_API_KEY")
    if not key and not base_url and not os.environ.get("OPENAI_BASE_URL"):
        raise ConfigError(
            "no key for the OpenAI endpoint",
            hint="set the environment variable OPENAI_API_KEY, or name another endpoint: openai:MODEL@BASE_URL",
        )
    return {"api_key": key or "none", "base_url": base_url, "timeout": timeout, "max_retries": retries}


@contextmanager
def endpoint_errors(name: str) -> Iterator[None]:
    """Turns what the client raises, and answers that make no sense, into ModelError; the key never shows."""
    openai = import_openai()
    try:
        yield
    except RagError:
        raise
    except openai.APITimeoutError:
        raise ModelError(f"{name}: no answer in time", hint="raise the time-out or try again later") from None
    except openai.APIConnectionError as error:
        reason = _without_key(str(error.__cause__ or error))
        raise ModelError(f"{name}: the endpoint cannot be reached: {reason}", hint="is its URL right?") from None
    except openai.APIStatusError as error:
        raise ModelError(
            f"{name}: status {error.status_code}: {_without_key(str(error))}", hint=_hint(error.status_code)
        ) from None
    except Exception as error:  # noqa: BLE001  a body that is no JSON or has other fields, a stream that breaks off
        raise ModelError(
            f"{name}: the endpoint's answer makes no sense: {_without_key(str(error)) or type(error).__name__}",
            hint="is it an OpenAI-compatible endpoint, and does its URL end as it should (often in /v1)?",
        ) from None


def estimate_tokens(text: str) -> int:
    """An upper estimate of a text's tokens without a tokenizer: one for each four bytes begun of each word."""
    return sum(-(-len(piece.encode(errors="replace")) // 4) for piece in _PIECES.findall(text))


def _without_key(text: str) -> str:
    key = os.environ.get("OPENAI_API_KEY")
    return text.replace(key, "***") if key else text


def _hint(status: int) -> str:
    if status in (401, 403):
        return "check OPENAI_API_KEY"
    if status == 404:
        return "is the model's name right, and does the URL end as it should (often in /v1)?"
    if status == 429:
        return "too many requests, or no quota left: try again later"
    return "the endpoint failed: try again later" if status >= 500 else "the request was refused"
