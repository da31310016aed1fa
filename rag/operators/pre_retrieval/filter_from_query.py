"""From a question to a metadata filter."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from rag.errors import ConfigError
from rag.operators.asking import Asking, at_once
from rag.operators.replies import first_line
from rag.operators.resources import ChatModel, Collection
from rag.types import Query

__all__ = ["FilterFromQuery"]

_SAMPLE = 100
_VALUES = 5
_LONGEST = 40


class FilterFromQuery(Asking, name="pre_retrieval.filter_from_query"):
    """Give the query a metadata filter for the conditions that it states, such as a year or an author.

    The model sees the collection's fields with examples of their values, and writes an expression in its filter
    language (`rag.collection.filters`). An expression that does not parse, names a field that the collection does not
    have, or that no chunk passes, is dropped: the query stays as it was, as when the model says that there is no
    condition. A filter that the query has must hold as well. (Query construction; Modular RAG, arXiv:2407.21059, 3.2.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("fields", "question")

    prompt: str = Field("filter_from_query", description="name of a prompt file, without .md")
    max_tokens: int = Field(128, ge=1, le=32768, description="tokens of a reply")
    fields: tuple[str, ...] = Field((), description="fields that the model is told of; all when left out")

    def run(self, query: Query, llm: ChatModel, collection: Collection) -> Query:
        return self._filtered(llm, collection, self._describe(collection), query)

    def run_batch(self, query: list[Query], *, llm: ChatModel, collection: Collection) -> list[Query]:
        one = partial(self._filtered, llm, collection, self._describe(collection))
        return at_once(one, [(q,) for q in query], self.concurrency)

    def _filtered(self, llm: ChatModel, collection: Collection, fields: str, query: Query) -> Query:
        if not fields:
            return query
        written = first_line(self.ask(llm, {"fields": fields, "question": query.text}, cut="fields").text)
        expression = f"({query.filter}) and ({written})" if query.filter else written
        if not written or written.strip(".").casefold() == "none" or not _holds(collection, written, expression):
            return query
        return replace(query, filter=expression)

    def _describe(self, collection: Collection) -> str:
        """The fields of the collection, one a line, with values as they occur in chunks spread over it."""
        names = [n for n in collection.fields() if n != "id" and (not self.fields or n in self.fields)]
        ids = collection.chunk_ids()
        chosen = ids[np.unique(np.linspace(0, len(ids) - 1, min(len(ids), _SAMPLE)).astype(np.int64))]
        values: dict[str, dict[str, None]] = {name: {} for name in names}
        for chunk in collection.chunks(chosen):
            for name in names:
                value = chunk.document if name == "document" else _at(chunk.metadata, name)
                if value is not None and len(values[name]) < _VALUES:
                    values[name][json.dumps(value, ensure_ascii=False)[:_LONGEST]] = None
        return "\n".join(f"{name}: {', '.join(values[name])}" if values[name] else name for name in names)


def _holds(collection: Collection, *expressions: str) -> bool:
    """Whether the collection can read each of these expressions, and some chunk passes it."""
    try:
        return all(len(collection.select(expression)) for expression in expressions)
    except ConfigError:
        return False


def _at(metadata: Any, name: str) -> Any:
    """The value under a name, dotted where objects nest."""
    if name in metadata:
        return metadata[name]
    for part in name.split("."):
        if not isinstance(metadata, dict) or part not in metadata:
            return None
        metadata = metadata[part]
    return metadata
