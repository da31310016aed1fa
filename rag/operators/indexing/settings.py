"""How a collection is indexed: kept with it, so that the next run goes on in the same way."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field, field_serializer, field_validator

from rag.encoders.protocol import Encoder
from rag.errors import ConfigError
from rag.operators.base import Operator
from rag.operators.flow import Flow, Sequence
from rag.operators.indexing.attach_metadata import AttachMetadata
from rag.operators.indexing.chunkers.auto import Auto
from rag.operators.indexing.duplicates import DedupeSettings
from rag.operators.indexing.options import Options
from rag.operators.indexing.readers import ReaderSettings
from rag.operators.indexing.walk import WalkSettings
from rag.operators.registry import lookup
from rag.types import Chunk, Document

__all__ = ["IndexSettings", "chunk"]

_FORMAT = 1  # raised when the same settings come to give other chunks, so that all files are read again


class IndexSettings(Options):
    """What decides the documents and chunks that a folder becomes."""

    chunker: Flow = Field(
        default_factory=lambda: Auto() >> AttachMetadata(),
        description="a chunker, or a sequence of one and of operators on its chunks",
        validate_default=True,
    )
    embed_title: bool = Field(True, description="whether title and headings are encoded before a chunk's own text")
    reader: ReaderSettings = ReaderSettings()
    walk: WalkSettings = WalkSettings()
    dedupe: DedupeSettings = DedupeSettings()

    @field_validator("chunker", mode="before")
    @classmethod
    def _from_names(cls, value: Any) -> Flow:
        """From what `_to_names` made of it: [{"indexing.auto": {"size": 100}}, ...]."""
        if isinstance(value, list):
            steps = [lookup(name)(**settings) for step in value for name, settings in step.items()]
            value = Sequence(tuple(steps))
        _steps(value)
        flow: Flow = value
        return flow

    @field_serializer("chunker")
    def _to_names(self, chunker: Flow) -> list[dict[str, Any]]:
        return [{step.operator_name: step.settings()} for step in _steps(chunker)]

    def fingerprint(self) -> str:
        """16 hex digits of all that decides the chunks and vectors of a file."""
        content = self.model_dump(mode="json", include={"chunker", "embed_title", "reader"})
        return hashlib.sha256(json.dumps([_FORMAT, content], sort_keys=True).encode()).hexdigest()[:16]


def chunk(chunker: Flow, document: Document, encoder: Encoder | None = None) -> list[Chunk]:
    """Run a chunker, or a sequence that begins with one, on a document."""
    state: dict[str, Any] = {"document": document, "encoder": encoder}
    for step in _steps(chunker):
        signature = step.signature()
        names = [read.channel for read in (*signature.reads, *signature.resources)]
        state["chunks"] = step.run(**{name: state[name] for name in names if name in state})
    chunks: list[Chunk] = state["chunks"]
    return chunks


def _steps(flow: Any) -> list[Operator]:
    """The operators of a chunker; ConfigError when they are not made to take a document and give its chunks."""
    steps: list[Operator] = []
    known = {"document", "encoder"}
    for step in flow.steps if isinstance(flow, Sequence) else (flow,):
        if not isinstance(step, Operator):
            raise ConfigError(
                f"chunker: {step!r} is no operator", hint="for example Recursive(size=200) >> SmallToBig()"
            )
        signature = step.signature()
        reads = {read.channel for read in (*signature.reads, *signature.resources) if read.required}
        if not reads <= known or [write.channel for write in signature.writes] != ["chunks"]:
            raise ConfigError(
                f"chunker: {step.operator_name} cannot stand here: it reads {', '.join(sorted(reads))}",
                hint="begin with a chunker such as Auto(); each operator must write `chunks` and read only `document`, "
                "`encoder` and the `chunks` before it",
            )
        known.add("chunks")
        steps.append(step)
    return steps
