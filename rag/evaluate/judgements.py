"""Labelled queries, to fit filters and corrections by: judgements, clicks, BEIR qrels, questions made of the chunks."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.collection import Collection
from rag.errors import InputError, NotFoundError
from rag.evaluate.datasets import records
from rag.models import ChatModel
from rag.operators.indexing.sentences import sentences
from rag.operators.pre_retrieval import ReverseHyDE
from rag.relevance.training import Progress
from rag.types import Chunk

__all__ = [
    "LabelledQuery",
    "Searched",
    "read_labels",
    "read_qrels",
    "read_queries",
    "relevant_chunks",
    "searched",
    "synthetic_queries",
]

_BLOCK = 256
_COLUMNS = {"query": ("query",), "document": ("document", "doc"), "label": ("label", "relevance", "clicked")}


@dataclass(frozen=True)
class LabelledQuery:
    """A question and what answers it: ids of documents, any chunk of which counts, or ids of chunks."""

    text: str
    documents: frozenset[str] = frozenset()
    chunks: frozenset[int] = frozenset()


def read_labels(path: Path) -> list[LabelledQuery]:
    """Judgements or clicks from JSON lines or CSV with the columns `query` (its text), `document` (its id in the
    collection) and `label`: a number, of which those above 0 are relevant. What has no label counts as not relevant.

    Raises NotFoundError, and InputError that names the line.
    """
    found: dict[str, set[str]] = {}
    for where, row in _rows(path):
        fields = {}
        for field, names in _COLUMNS.items():
            value = next((row[name] for name in names if row.get(name) is not None), None)
            if value is None:
                raise InputError(f"{where}: no column {field!r}", hint="write query, document, label")
            fields[field] = value
        try:
            relevant = float(fields["label"]) > 0
        except (TypeError, ValueError):
            raise InputError(f"{where}: label {fields['label']!r} is no number") from None
        known = found.setdefault(str(fields["query"]).strip(), set())
        if relevant:
            known.add(str(fields["document"]))
    return [LabelledQuery(text, frozenset(documents)) for text, documents in found.items()]


def read_queries(path: Path) -> list[LabelledQuery]:
    """The queries of a `queries.jsonl` in BEIR layout, without labels; raises as above."""
    if not path.is_file():
        raise NotFoundError(f"there is no file {str(path)!r}")
    return [LabelledQuery(entry["text"]) for _, entry in records(path, needed=("text",))]


def read_qrels(queries: Path, qrels: Path) -> list[LabelledQuery]:
    """The queries of a `queries.jsonl` in BEIR layout that the judgements in `qrels` (TSV) name; raises as above."""
    for path in (queries, qrels):
        if not path.is_file():
            raise NotFoundError(f"there is no file {str(path)!r}")
    texts = {entry["_id"]: entry["text"] for _, entry in records(queries)}
    judged: dict[str, set[str]] = {}
    for number, line in enumerate(qrels.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if number == 1 or not line.strip():
            continue
        if len(fields) < 3 or fields[0] not in texts:
            raise InputError(f"{qrels}:{number}: {line!r}, expected a query of {queries.name}, document, relevance")
        known = judged.setdefault(fields[0], set())
        if fields[2].strip().lstrip("-").isdigit() and int(fields[2]) > 0:
            known.add(fields[1])
    return [LabelledQuery(texts[query], frozenset(documents)) for query, documents in judged.items()]


def synthetic_queries(
    collection: Collection, count: int, seed: int = 0, llm: ChatModel | None = None
) -> list[LabelledQuery]:
    """Questions made of up to `count` chunks, each with the chunk that it was made of.

    A language model writes them where there is one. Otherwise every other one is what stands above the chunk, its title
    and innermost heading, where it has such; and the rest are the long words of a sentence of the chunk, as one who
    remembers it would type them.
    """
    rng = random.Random(seed)  # noqa: S311  (not for secrets)
    ids = collection.chunk_ids().tolist()
    made = []
    for place, chunk in enumerate(collection.chunks(sorted(rng.sample(ids, min(count, len(ids)))))):
        text = _asked_by(llm, collection, chunk) if llm is not None else None
        text = text or (_above(chunk) if place % 2 else None) or _remembered(chunk.text, rng)
        if text:
            made.append(LabelledQuery(text, chunks=frozenset((chunk.id,))))
    return made


def relevant_chunks(collection: Collection, queries: list[LabelledQuery]) -> list[NDArray[np.int64]]:
    """The ids of the chunks that are relevant to each query: those of its documents count too.

    Raises InputError when the collection has none of the documents that are labelled.
    """
    named = {document for query in queries for document in query.documents}
    there = collection.documents()
    if named and not named & there.keys():
        some, known = sorted(named)[0], next(iter(there), "")
        raise InputError(
            f"none of the {len(named)} labelled documents is in {collection.path}",
            hint=f"labels name documents such as {some!r}, the collection such as {known!r}",
        )
    none = np.zeros(0, np.int64)
    members = {document: collection.chunk_ids(document) if document in there else none for document in named}
    return [np.array([*q.chunks, *(c for d in q.documents for c in members[d])], np.int64) for q in queries]


@dataclass(frozen=True, eq=False)
class Searched:
    """What a dense search found for n queries, k chunks each, best first.

    `vectors` float32[n, d], the embeddings of the queries; `ids` int64[n, k], -1 where less was found; `scores`
    float32[n, k] and `labels` bool[n, k], whether a chunk is relevant: 0 and False there.
    """

    vectors: NDArray[np.float32]
    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    labels: NDArray[np.bool_]


def searched(
    collection: Collection, queries: list[LabelledQuery], k: int = 100, progress: Progress | None = None
) -> Searched:
    """Search for the k nearest chunks of labelled queries.

    Raises InputError when the collection is empty, or has none of the documents that are labelled.
    """
    if not len(collection):
        raise InputError(f"{collection.path} holds nothing to search in", hint=f"rag index {collection.path} PATH")
    relevant = relevant_chunks(collection, queries)
    shape = len(queries), min(k, len(collection))
    ids, scores, labels = np.full(shape, -1, np.int64), np.zeros(shape, np.float32), np.zeros(shape, bool)
    vectors = np.zeros((len(queries), collection.dim), np.float32)
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        own = slice(start, start + len(block))
        vectors[own] = collection.encoder.encode_queries([query.text for query in block])
        for row, hits in enumerate(collection.search_dense(vectors[own], shape[1]), start):
            ids[row, : len(hits)], scores[row, : len(hits)] = hits.ids, hits.scores
            labels[row, : len(hits)] = np.isin(hits.ids, relevant[row])
        if progress is not None:
            progress("searching", start + len(block), len(queries))
    return Searched(vectors, ids, scores, labels)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where each line stands, and its columns."""
    if not path.is_file():
        raise NotFoundError(f"there is no file {str(path)!r}")
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                yield f"{path}:{number}", row
    else:
        yield from records(path, needed=("query",))


def _asked_by(llm: ChatModel, collection: Collection, chunk: Chunk) -> str | None:
    """A question that a model says the chunk answers."""
    (asked,) = ReverseHyDE(n=1).run(collection.document(chunk.document), [chunk], llm)
    questions = asked.metadata.get("questions") or [None]
    return questions[0] if isinstance(questions, list) else None


def _above(chunk: Chunk) -> str | None:
    """Title and innermost heading."""
    headings = chunk.metadata.get("headings")
    inner = headings[-1] if isinstance(headings, list | tuple) and headings else None
    parts = [str(part).strip() for part in (chunk.metadata.get("title"), inner) if part]
    return " ".join(dict.fromkeys(parts)) or None


def _remembered(text: str, rng: random.Random) -> str | None:
    """The longer half of the words of a sentence, at most eight, in their order."""
    spoken = [re.findall(r"\w[\w'-]*", text[a:b]) for a, b in sentences(text)]
    spoken = [words for words in spoken if len(words) >= 4]
    if not spoken:
        return None
    words = rng.choice(spoken)
    kept = sorted(sorted(range(len(words)), key=lambda i: -len(words[i]))[: min(8, (len(words) + 1) // 2)])
    return " ".join(words[i] for i in kept)
