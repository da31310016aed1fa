"""The questions of squad_train_sample, its paragraphs, and what is measured on their answers."""

from __future__ import annotations

import json
import os
import random
import re
import string
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag.encoders import Encoder
from rag.evaluate.measures import exact_match, f1
from rag.index.lexical import LexicalIndex, search_lexical
from rag.operators.retrieval import Fuse
from rag.types import Context, Hits, Passage

__all__ = ["Cached", "Item", "Retriever", "Squad", "data_folder", "exact_match", "f1", "holds"]


def data_folder() -> Path:
    """RAG_DATA, or ../shared/data beside the repository."""
    return Path(os.environ.get("RAG_DATA") or Path(__file__).parents[2] / "shared" / "data") / "squad_train_sample"


@dataclass(frozen=True)
class Item:
    """A question with its answers, where they begin in the paragraph that it was asked about, and that paragraph."""

    id: str
    question: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]
    paragraph: str


class Squad:
    """Paragraphs by id, and questions by split."""

    def __init__(self, folder: Path) -> None:
        rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text("utf-8").splitlines()]
        self.texts = {row["_id"]: row["text"] for row in rows}
        self.titles = {row["_id"]: row["title"] for row in rows}
        self.names = list(self.texts)
        self._queries = {
            row["_id"]: row for row in map(json.loads, (folder / "queries.jsonl").read_text("utf-8").splitlines())
        }
        self._folder = folder

    def split(self, name: str, sample: int | None = None) -> list[Item]:
        """All questions of a split; with `sample`, the fixed sample of that size."""
        lines = (self._folder / "qrels" / f"{name}.tsv").read_text("utf-8").splitlines()[1:]
        paragraph = {query: doc for query, doc, _ in (line.split("\t") for line in lines)}
        ids = sorted(paragraph)
        if sample is not None and sample < len(ids):
            ids = random.Random(0).sample(ids, sample)
        return [
            Item(i, q["text"], tuple(q["answers"]), tuple(q["answer_starts"]), paragraph[i])
            for i in ids
            for q in (self._queries[i],)
        ]

    def context(self, ranked: Iterable[tuple[str, float]]) -> Context:
        """Whole paragraphs as the passages of a context."""
        return Context(
            tuple(
                Passage(n, n, name, self.texts[name], 0, len(self.texts[name]), 1, score, {"title": self.titles[name]})
                for n, (name, score) in enumerate(ranked, 1)
            )
        )


class Retriever:
    """BM25 and dense search over the paragraphs, fused by reciprocal ranks: 100 hits each."""

    def __init__(self, squad: Squad, encoder: Encoder, only: Set[str] | None = None) -> None:
        """`only`: the paragraphs to search in; all when left out."""
        self.names = [n for n in squad.names if only is None or n in only]
        texts = [f"{squad.titles[n]}\n{squad.texts[n]}".strip() for n in self.names]
        self.vectors = encoder.encode_documents(texts)
        self.lexical = LexicalIndex.build(np.arange(len(texts)), texts)

    def __call__(self, questions: Sequence[str], vectors: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
        """For each question k paragraphs with their scores."""
        words = search_lexical([self.lexical], list(questions), 100)
        dense = vectors @ self.vectors.T
        found = []
        for row, scores in enumerate(dense):
            top = np.argsort(-scores, kind="stable")[:100]
            kept = words.ids[row] >= 0
            fused = Fuse(k=k).run([Hits(top, scores[top]), Hits(words.ids[row][kept], words.scores[row][kept])])
            found.append([(self.names[i], s) for i, s in zip(fused.ids, fused.scores.tolist(), strict=True)])
        return found


class Cached:
    """An encoder that remembers."""

    def __init__(self, encoder: Any, file: Path | None) -> None:
        self._encoder = encoder
        self._file = file
        self._known: dict[str, np.ndarray] = {}
        if file and file.exists():
            held = np.load(file, allow_pickle=False)
            self._known = dict(zip(held["texts"].tolist(), held["vectors"], strict=True))

    def encode_documents(self, texts: Sequence[str], progress: Any = None) -> np.ndarray:
        new = [t for t in dict.fromkeys(texts) if t not in self._known]
        if new:
            self._known.update(zip(new, self._encoder.encode_documents(new), strict=True))
        return np.stack([self._known[t] for t in texts])

    encode_queries = encode_documents  # the default encoder treats both alike

    def save(self) -> None:
        if self._file:
            np.savez(self._file, texts=np.array(list(self._known)), vectors=np.stack(list(self._known.values())))


def holds(item: Item, paragraph: str, start: int, end: int, text: str) -> int:
    """2 when characters start..end of a paragraph hold the marked answer, 1 when they hold its words, otherwise 0."""
    if paragraph == item.paragraph and any(
        start <= s and s + len(a) <= end for s, a in zip(item.starts, item.answers, strict=True)
    ):
        return 2
    return int(any(_words(a) in _words(text) for a in item.answers))


def _words(text: str) -> str:
    """Its words in lower case, without punctuation and articles, between spaces."""
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return " " + " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split()) + " "
