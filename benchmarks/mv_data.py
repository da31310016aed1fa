"""Token vectors of real collections for the multi-vector benchmark: encoded once, kept in a cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.evaluate.datasets import load
from rag.evaluate.measures import judge_rankings
from rag.index.lexical import LexicalIndex, search_lexical
from rag.index.protocol import Matches
from rag.index.scan import ScanIndex

Floats: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int64]

DATA = Path(os.environ.get("RAG_DATA", Path(__file__).parents[2] / "shared" / "data"))
BATCH = 512  # texts that are encoded at a time


@dataclass(frozen=True)
class Encoded:
    """Texts as token vectors float32[t, dim] with offsets int64[n + 1], and as single vectors float32[n, dim]."""

    tokens: Floats
    offsets: Ids
    vectors: Floats

    def take(self, rows: Ids) -> Encoded:
        """Some of the texts."""
        parts = [np.arange(self.offsets[row], self.offsets[row + 1]) for row in rows]
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Encoded(self.tokens[np.concatenate(parts)], offsets, self.vectors[rows])


@dataclass(frozen=True)
class Collection:
    """Documents and questions, encoded, with the judgements and the texts."""

    name: str
    documents: Encoded
    queries: Encoded
    document_ids: list[str]
    texts: list[str]
    query_ids: list[str]
    questions: list[str]
    qrels: dict[str, dict[str, int]]

    def ndcg(self, ranked: Ids) -> float:
        """nDCG@10 of rankings int64[q, 10], -1 for none."""
        rankings = {
            query: [self.document_ids[row] for row in rows if row >= 0]
            for query, rows in zip(self.query_ids, ranked[:, :10].tolist(), strict=True)
        }
        values = judge_rankings(["nDCG@10"], self.qrels, rankings)["nDCG@10"]
        return float(np.mean(list(values.values())))

    @cached_property
    def words(self) -> LexicalIndex:
        return LexicalIndex.build(np.arange(len(self.texts)), self.texts)

    def bm25(self, k: int) -> Ids:
        """The k best by BM25, -1 where there are fewer."""
        return search_lexical([self.words], self.questions, k).ids

    @cached_property
    def singles(self) -> ScanIndex:
        index = ScanIndex(self.documents.vectors.shape[1], "cosine")
        index.add(np.arange(len(self.texts)), self.documents.vectors)
        return index

    def near(self, k: int) -> Matches:
        """The k nearest single vectors, -1 where there are fewer."""
        return self.singles.search(self.queries.vectors, k)


def collection(
    name: str, cache: Path, most_queries: int, most_documents: int | None = None, split: str = "test"
) -> Collection:
    """A data set of RAG_DATA by the default encoder's token states; the first questions of a split, at most so many."""
    from rag.encoders.multivector import TokenStateEncoder, load_multi_vector

    data = load(DATA / name, split)
    documents = data.documents[:most_documents]
    known = {document.id for document in documents}
    chosen = [q for q in data.queries if known & data.qrels[q].keys()][:most_queries]
    texts, questions = [document.text for document in documents], [data.queries[q].text for q in chosen]
    encoder = load_multi_vector()
    assert isinstance(encoder, TokenStateEncoder)
    folder = cache / f"{name}-{len(texts)}"
    folder.mkdir(parents=True, exist_ok=True)
    return Collection(
        name,
        _encoded(folder, "doc", texts, encoder.encode_documents_both),
        _encoded(folder, f"{split}-{len(questions)}", questions, encoder.encode_queries_both),
        [document.id for document in documents],
        texts,
        chosen,
        questions,
        {query: dict(data.qrels[query]) for query in chosen},
    )


def _encoded(folder: Path, what: str, texts: list[str], encode: object) -> Encoded:
    """Out of the cache, where tokens are kept as float16, or encoded."""
    assert callable(encode)
    files = {part: folder / f"{what}_{part}.npy" for part in ("tokens", "offsets", "vectors")}
    if not all(file.exists() for file in files.values()):
        print(f"encoding {len(texts):,} texts into {folder}", flush=True)
        tokens, counts, vectors = [], [np.zeros(1, np.int64)], []
        for first in range(0, len(texts), BATCH):
            single, many = encode(texts[first : first + BATCH])
            vectors.append(single)
            tokens.append(many.vectors.astype(np.float16))
            counts.append(np.diff(many.offsets))
        np.save(files["vectors"], np.concatenate(vectors))
        np.save(files["offsets"], np.cumsum(np.concatenate(counts)))
        np.save(files["tokens"], np.concatenate(tokens))
    rows = np.load(files["tokens"]).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Encoded(rows, np.load(files["offsets"]).astype(np.int64), np.load(files["vectors"]))
