"""Streams of questions with retrieved passages for the benchmark of cached chunks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mv_data import DATA

from rag.encoders import load as load_encoder
from rag.evaluate.datasets import load
from rag.index.scan import ScanIndex
from rag.types import Document, Passage, Query

__all__ = ["Question", "stream"]

SPARE = 8  # documents handed over that stand in no prompt

BATCH = 512  # texts that are encoded at a time


@dataclass(frozen=True)
class Question:
    """A question, its accepted answers, and the passages that were retrieved for it, best first."""

    id: str
    query: Query
    answers: tuple[str, ...]
    passages: tuple[Passage, ...]


def stream(name: str, count: int, k: int, cache: Path, seed: int = 0) -> tuple[list[Question], list[Passage]]:
    """The first questions of a stream over a data set of RAG_DATA, each with its k nearest documents; and some others.

    What is asked about follows Zipf's law: documents have random ranks r, and a question comes the sooner the larger
    the 1 / r of its documents. No question comes twice; a longer stream begins with the shorter ones.
    """
    data = load(DATA / name)
    rng = np.random.default_rng(seed)
    rank = {data.documents[row].id: place for place, row in enumerate(rng.permutation(len(data.documents)), 1)}
    ids = [query for query in data.queries if data.answers.get(query)]
    about = {query: min(data.qrels[query], key=lambda document: rank[document]) for query in ids}
    shared = Counter(about.values())
    weights = np.array([1 / (rank[about[query]] * shared[about[query]]) for query in ids])
    order = np.argsort(-(np.log(weights) + rng.gumbel(size=len(ids))))  # drawn without replacement, by weight
    chosen = [ids[row] for row in order[:count]]
    encoder = load_encoder()
    index = ScanIndex(encoder.dim, "cosine")
    index.add(np.arange(len(data.documents)), _vectors(data.documents, cache / f"{name}.npy"))
    found = index.search(encoder.encode_queries([data.queries[query].text for query in chosen]), k)
    questions = [
        Question(
            query,
            data.queries[query],
            data.answers[query],
            tuple(_passage(n, int(row), data.documents[row]) for n, row in enumerate(rows, 1)),
        )
        for query, rows in zip(chosen, found.ids, strict=True)
    ]
    others = rng.permutation(np.setdiff1d(np.arange(len(data.documents)), found.ids))[:SPARE]
    return questions, [_passage(n, int(row), data.documents[row]) for n, row in enumerate(others, 1)]


def _vectors(documents: tuple[Document, ...], file: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """float32[n, dim]; out of the cache, or encoded."""
    if not file.exists():
        print(f"encoding {len(documents):,} texts into {file}", flush=True)
        encoder = load_encoder()
        texts = [document.text for document in documents]
        parts = [encoder.encode_documents(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)]
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.concatenate(parts))
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]] = np.load(file)
    return vectors


def _passage(number: int, row: int, document: Document) -> Passage:
    title = {"title": document.metadata["title"]} if document.metadata.get("title") else {}
    return Passage(number, row, document.id, document.text, 0, len(document.text), 1, 0.0, title)
