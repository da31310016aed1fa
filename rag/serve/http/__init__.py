"""The service over HTTP: JSON in and out, server-sent events, OpenAPI, health, metrics, and a page to look at it."""

from rag.serve.http.app import make_app

__all__ = ["make_app"]
