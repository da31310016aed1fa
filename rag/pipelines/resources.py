"""Resources of a pipeline: what an operator is given because of the type of a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rag.collection import Collection
from rag.encoders import Encoder
from rag.encoders import load as load_encoder
from rag.errors import FlowError
from rag.models import ChatModel
from rag.models import load as load_model
from rag.operators.signature import Read, show_type
from rag.pipelines.meter import metered
from rag.pipelines.node import Resolve

__all__ = ["resolver"]

_FLAGS = {Collection: "collection", Encoder: "encoder", ChatModel: "llm"}
_METHOD = {Collection: "search_dense", Encoder: "encode_queries", ChatModel: "chat"}
"""By which method a resource is known: asking for all members of a protocol would load what is loaded lazily."""
_HOW = {
    Collection: 'name a folder made by `rag index`: Pipeline(..., collection="kb"), or `collection: kb` in YAML',
    Encoder: 'name one: Pipeline(..., encoder="all-MiniLM-L6-v2"), or give it a collection, whose encoder it uses',
    ChatModel: 'name one: Pipeline(..., llm="openai:gpt-4o-mini"), `llm:` in YAML, --llm, or RAG_LLM',
}


def resolver(given: Mapping[str, Any], outer: Resolve | None = None) -> Resolve:
    """Finds resources among those `given` by name: the parameter's own name first, then the usual one of its type.

    A text is a specification and opened on first use: a folder for a collection, otherwise what `rag.encoders.load` or
    `rag.models.load` takes. An encoder that is not given is the collection's own. What is not there at all is asked of
    `outer`, the resolver of the pipeline around this one.
    """
    opened: dict[str, Any] = {}

    def fetch(name: str, kind: type) -> Any:
        if name not in opened:
            value = given[name]
            if isinstance(value, str):
                if kind is Collection:
                    value = Collection.open(value)
                elif kind is Encoder:
                    value = load_encoder(value)
                elif kind is ChatModel:
                    value = load_model(value)
            opened[name] = value
        value = opened[name]
        if not callable(getattr(value, _METHOD.get(kind, "__class__"), None)):
            raise FlowError(
                f"resource {name!r} is {show_type(type(value))}, not a {show_type(kind)}", hint=_HOW.get(kind)
            )
        return metered(value) if kind is ChatModel else value

    def resolve(node: str, need: Read) -> Any:
        for name in (need.channel, _FLAGS.get(need.type, need.channel)):
            if given.get(name) is not None:
                return fetch(name, need.type)
        if need.type is Encoder and given.get("collection") is not None:
            return fetch("collection", Collection).encoder
        if outer is not None:
            return outer(node, need)
        if not need.required:
            return need.default
        raise FlowError(
            f"node {node!r} needs a {show_type(need.type)}, and the pipeline has none", hint=_HOW.get(need.type)
        )

    return resolve
