"""Retrieval data sets in the layout of BEIR (Thakur et al. 2021, arXiv:2104.08663).

A folder with `corpus.jsonl` (`_id`, `title`, `text`, and further fields), `queries.jsonl` (`_id`, `text`, and where
known `answers`), each perhaps compressed (`.gz`), and `qrels/SPLIT.tsv` (header line; query, document, relevance, and
where known the aspect of the question that the document answers, with a line for each).
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rag.errors import InputError, NotFoundError, did_you_mean
from rag.types import Document, Query

__all__ = ["Dataset", "find", "load", "read_documents", "records"]


@dataclass(frozen=True)
class Dataset:
    """Documents, questions, and which documents are relevant to which question."""

    name: str
    split: str
    documents: tuple[Document, ...]
    """Text is the title, a line break, and the text; metadata are the title and the further fields."""
    queries: Mapping[str, Query]
    """By id: those with at least one relevant document."""
    qrels: Mapping[str, Mapping[str, int]]
    """Query id -> document id -> relevance; 0 is a document judged not relevant."""
    answers: Mapping[str, tuple[str, ...]]
    """Query id -> accepted answers, where they are known."""
    aspects: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    """Query id -> document id -> the aspects of the question that it answers, where they are known."""

    def sample(self, n: int, seed: int = 0) -> Dataset:
        """The same documents and at most n of the queries, by `random.Random(seed).sample` of the sorted ids."""
        ids = sorted(self.queries)
        if n >= len(ids):
            return self
        chosen = random.Random(seed).sample(ids, n)  # noqa: S311  (not for secrets)
        return replace(
            self,
            queries={i: self.queries[i] for i in chosen},
            qrels={i: self.qrels[i] for i in chosen},
            answers={i: self.answers[i] for i in chosen if i in self.answers},
            aspects={i: self.aspects[i] for i in chosen if i in self.aspects},
        )


def find(name: str | os.PathLike[str], split: str = "test") -> Dataset:
    """The data set in this folder, or of this name in the folder that the environment variable RAG_DATA names.

    Raises NotFoundError when there is none, InputError (naming file and line) for a file that is not as it should be.
    """
    folder = Path(name)
    if _corpus(folder) is None:
        home = os.environ.get("RAG_DATA")
        if home is None:
            raise NotFoundError(
                f"no data set at {folder}: it holds no corpus.jsonl",
                hint="name its folder, or set RAG_DATA to the folder that holds the data sets",
            )
        if _corpus(Path(home) / folder) is None:
            known = [path.name for path in Path(home).iterdir() if _corpus(path)] if Path(home).is_dir() else []
            raise NotFoundError(f"no data set {str(name)!r} in {home} (RAG_DATA)", hint=did_you_mean(str(name), known))
        folder = Path(home) / folder
    return load(folder, split)


def load(folder: Path, split: str = "test") -> Dataset:
    """Read a data set; raises as `find` does."""
    questions = _existing(folder / "queries.jsonl")
    if questions is None:
        raise NotFoundError(f"{folder}: no queries.jsonl")
    judgements = folder / "qrels" / f"{split}.tsv"
    if not judgements.is_file():
        splits = [path.stem for path in (folder / "qrels").glob("*.tsv")]
        raise NotFoundError(f"{folder}: no split {split!r}", hint=did_you_mean(split, splits))
    documents = {document.id: document for document in read_documents(folder)}
    queries, answers = {}, {}
    for where, entry in records(questions):
        if entry["_id"] in queries:
            raise InputError(f"{where}: query {entry['_id']!r} is there twice")
        queries[entry["_id"]] = Query(entry["text"])
        if entry.get("answers"):
            answers[entry["_id"]] = tuple(map(str, entry["answers"]))
    qrels, aspects = _judgements(judgements, queries, documents)
    return Dataset(
        name=folder.resolve().name,
        split=split,
        documents=tuple(documents.values()),
        queries={i: query for i, query in queries.items() if i in qrels},
        qrels=qrels,
        answers={i: accepted for i, accepted in answers.items() if i in qrels},
        aspects=aspects,
    )


def read_documents(folder: Path) -> Iterator[Document]:
    """The documents of `corpus.jsonl` alone; raises as `find` does."""
    corpus = _corpus(folder)
    if corpus is None:
        raise NotFoundError(f"{folder}: no corpus.jsonl")
    seen = set()
    for where, entry in records(corpus):
        if entry["_id"] in seen:
            raise InputError(f"{where}: document {entry['_id']!r} is there twice")
        seen.add(entry["_id"])
        yield _document(entry)


def _document(entry: Mapping[str, Any]) -> Document:
    metadata = {name: value for name, value in entry.items() if name not in ("_id", "text")}
    title = metadata.get("title")
    return Document(entry["_id"], f"{title}\n{entry['text']}" if title else entry["text"], metadata)


def _judgements(
    path: Path, queries: Mapping[str, Any], documents: Mapping[str, Any]
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, frozenset[str]]]]:
    """Of the queries with a relevant document: relevance, and aspects of the relevant documents that name any."""
    qrels: dict[str, dict[str, int]] = {}
    aspects: dict[str, dict[str, frozenset[str]]] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if number == 1 or not line.strip():
                continue
            fields = line.rstrip("\r\n").split("\t")
            try:
                query, document, relevance = fields[0], fields[1], int(fields[2])
            except (IndexError, ValueError):
                raise InputError(f"{path}:{number}: {line.strip()!r}, expected query, document, whole number") from None
            for kind, name, known in (("query", query, queries), ("document", document, documents)):
                if name not in known:
                    raise InputError(f"{path}:{number}: {kind} {name!r} does not exist")
            aspect = fields[3].strip() if len(fields) > 3 else ""
            judged = qrels.setdefault(query, {})
            judged[document] = max(relevance, judged.get(document, relevance)) if aspect else relevance
            if aspect and relevance > 0:
                own = aspects.setdefault(query, {})
                own[document] = own.get(document, frozenset()) | {aspect}
    return {query: judged for query, judged in qrels.items() if max(judged.values()) > 0}, aspects


def records(path: Path, needed: Sequence[str] = ("_id", "text")) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each line of JSON lines stands, and the object in it, with text under the `needed` names."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        number = 0
        try:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                entry = json.loads(line)
                for field in needed:
                    if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
                        raise InputError(f"{path}:{number}: no text under {field!r}")
                yield f"{path}:{number}", entry
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number}: not JSON: {error.msg} in column {error.colno}") from None
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise InputError(f"{path}:{number + 1}: cannot be read: {error}") from None


def _corpus(folder: Path) -> Path | None:
    return _existing(folder / "corpus.jsonl")


def _existing(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return path if path.is_file() else packed if packed.is_file() else None
