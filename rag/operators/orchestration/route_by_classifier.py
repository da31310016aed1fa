"""A router that learns from labelled questions."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, model_validator

from rag.errors import ConfigError
from rag.operators.base import Operator
from rag.operators.local_file import local_file
from rag.operators.orchestration.logistic import fit, probabilities
from rag.operators.orchestration.routers import RouteName, Texts
from rag.operators.resources import Encoder
from rag.types import Query

__all__ = ["RouteByClassifier"]


class RouteByClassifier(Operator, name="orchestration.route_by_classifier", waits=True):
    """Choose the route by a classifier trained on labelled questions: logistic regression on their embeddings.

    It is trained when it is first used, in moments for some thousand examples, and always comes out the same. Examples
    stand in `routes`, or in `file`: JSON lines with `text` and `route`, or CSV with these columns. When the best
    probability is below `probability` the route is `default`. Raises ConfigError for a file that cannot be read as
    examples of at least two routes, NotFoundError. (Modular RAG, arXiv:2407.21059, section 3.6, semantic routing.)
    """

    routes: dict[str, Texts] = Field(default_factory=dict, description="example questions of each route")
    file: str | None = Field(None, description=".jsonl or .csv below the working directory, or below RAG_FILES")
    default: str = Field(description="the route for questions that the classifier is not sure about")
    probability: float = Field(0.0, ge=0, le=1, description="least probability of the best route")
    l2: float = Field(0.01, gt=0, le=100, description="how strongly large weights are held back")
    _trained: dict[str, tuple[list[str], NDArray[np.float64]]] = PrivateAttr(default_factory=dict)
    _training: Any = PrivateAttr(default_factory=threading.Lock)

    @model_validator(mode="after")
    def _has_examples(self) -> RouteByClassifier:
        if (self.file is None) == (len(self.routes) == 0):
            raise ValueError("give examples in `routes` or in `file`, in one of them")
        if self.file is None and len(self.routes) < 2:
            raise ValueError("`routes` has one route, a classifier needs two")
        return self

    def route_names(self) -> tuple[str, ...] | None:
        return (*self.routes, self.default) if self.file is None else None  # a file is read when it is first needed

    def run(self, query: Query, encoder: Encoder) -> RouteName:
        return self.run_batch([query], encoder)[0]

    def run_batch(self, query: list[Query], encoder: Encoder) -> list[str]:
        names, weights = self._classifier(encoder)
        chances = probabilities(_features(encoder, [q.text for q in query]), weights)
        best = chances.argmax(axis=1)
        return [
            names[route] if row[route] >= self.probability else self.default
            for route, row in zip(best, chances, strict=True)
        ]

    def _classifier(self, encoder: Encoder) -> tuple[list[str], NDArray[np.float64]]:
        with self._training:
            if encoder.fingerprint not in self._trained:
                examples: Mapping[str, Any] = self.routes if self.file is None else _read(self.file)
                names = list(examples)
                labels = np.repeat(np.arange(len(names)), [len(texts) for texts in examples.values()])
                features = _features(encoder, [text for texts in examples.values() for text in texts])
                self._trained[encoder.fingerprint] = names, fit(features, labels, len(names), self.l2)
            return self._trained[encoder.fingerprint]


def _features(encoder: Encoder, texts: list[str]) -> NDArray[np.float64]:
    vectors = encoder.encode_queries(texts).astype(np.float64)
    return np.hstack([vectors, np.ones((len(vectors), 1))])


def _read(file: str) -> dict[str, list[str]]:
    path = local_file(file, "file of examples")
    examples: dict[str, list[str]] = {}
    try:
        for line, record in _records(path):
            text, route = (record.get(name) for name in ("text", "route"))
            if not (isinstance(text, str) and isinstance(route, str) and text and route):
                raise ConfigError(f"{file}, line {line}: an example needs `text` and `route`, both text")
            examples.setdefault(route, []).append(text)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file} cannot be read as examples: {error}") from None
    if len(examples) < 2:
        raise ConfigError(f"{file} has examples of {len(examples)} routes, a classifier needs two")
    return examples


def _records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        if path.suffix == ".csv":
            reader = csv.DictReader(lines)
            yield from ((reader.line_num, record) for record in reader)
            return
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{path.name}, line {number} is not JSON: {error}") from None
            yield number, record if isinstance(record, dict) else {}
