"""Vectors and queries on which the vector indexes are measured, and the exact neighbours of each query."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int64]

K = 10
QUERIES = 1000
FASHION = Path("/usr/share/datasets/fashion-mnist")
DATA = Path(os.environ.get("RAG_DATA") or Path(__file__).parents[2] / "shared" / "data")


class MissingDataError(Exception):
    """What is missing and how one gets it."""


@dataclass(frozen=True)
class Truth:
    """Exact neighbours: a found vector counts when its score reaches that of the tenth (so ties count)."""

    base: Floats
    metric: str
    queries: Floats
    tenth: Floats

    def recall(self, found: Ids) -> float:
        """Share of the K best that were found; an id given twice counts once, -1 not at all."""
        hits = 0
        for query, tenth, ids in zip(self.queries, self.tenth, found, strict=True):
            unique = np.unique(ids[(ids >= 0) & (ids < len(self.base))])
            scores = similarity(query[None], self.base[unique], self.metric)[0]
            hits += min(int((scores >= tenth - 1e-5 * max(abs(float(tenth)), 1e-3)).sum()), K)
        return hits / (K * len(found))


@dataclass(frozen=True)
class Dataset:
    """`base` float32[n, dim]; `queries` by kind; `learn`: other queries like the out-of-distribution ones, or None.

    `metric` is "cosine" (all vectors have unit length), "ip" or "l2".
    """

    name: str
    metric: Literal["cosine", "ip", "l2"]
    base: Floats
    queries: dict[str, Floats]
    learn: Floats | None
    folder: Path

    @property
    def shape(self) -> str:
        return f"{len(self.base):,} x {self.base.shape[1]}, {self.metric}"

    @cached_property
    def truth(self) -> dict[str, Truth]:
        """By kind of query; computed once and kept in a file."""
        found = {}
        for kind, queries in self.queries.items():
            file = self.folder / f"truth-{kind}-{len(self.base)}-{len(queries)}.npy"
            if not file.exists():
                np.save(file, tenth_best(self.base, queries, self.metric))
            found[kind] = Truth(self.base, self.metric, queries, np.load(file))
        return found


def similarity(queries: Floats, base: Floats, metric: str) -> Floats:
    """Scores float32[q, n], larger is nearer."""
    product: Floats = queries @ base.T
    if metric != "l2":
        return product
    distances: Floats = (queries**2).sum(1)[:, None] - 2 * product + (base**2).sum(1)
    return -distances


def tenth_best(base: Floats, queries: Floats, metric: str) -> Floats:
    """The score of the K-th nearest for each query, in blocks, scored anew from the rows by `similarity`."""
    blocks = []
    for start in range(0, len(queries), 64):
        scores = similarity(queries[start : start + 64], base, metric)
        best = np.argpartition(scores, -K, axis=1)[:, -K:]
        pairs = zip(queries[start : start + 64], best, strict=True)
        blocks += [similarity(query[None], base[ids], metric).min() for query, ids in pairs]
    return np.array(blocks, dtype=np.float32)


def wordnet(cache: Path, n: int | None = None) -> Dataset:
    """Glosses of WordNet by the default encoder, its queries, and questions of SQuAD as queries of another kind."""
    folder = cache / ("wordnet" if n is None else f"wordnet-{n}")
    if not all((folder / f"{part}.npy").exists() for part in ("base", "query", "ood")):
        _encode(folder, n)
    base, queries, other = (np.load(folder / f"{part}.npy") for part in ("base", "query", "ood"))
    kinds = {"in distribution": queries[:QUERIES], "out of distribution": other[:QUERIES]}
    return Dataset("wordnet", "cosine", base, kinds, other[QUERIES:], folder)


def _encode(folder: Path, n: int | None) -> None:
    from rag.encoders import load

    passages, questions = DATA / "wordnet_glosses", DATA / "squad_train_sample" / "queries.jsonl"
    if not (passages.exists() and questions.exists()):
        raise MissingDataError(f"wordnet_glosses and squad_train_sample are not in {DATA}; RAG_DATA names the folder")
    print(f"encoding into {folder}: minutes, once", flush=True)
    encoder = load()
    with gzip.open(passages / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(n or sys.maxsize), file, strict=False)]
    folder.mkdir(parents=True, exist_ok=True)
    count = 6 * QUERIES if n is None else 2 * QUERIES
    for part, path in (("query", passages / "queries.jsonl"), ("ood", questions)):
        texts = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()[:count]]
        np.save(folder / f"{part}.npy", encoder.encode_queries(texts))
    texts = [f"{row.get('title', '')}. {row['text']}".strip() for row in rows]
    np.save(folder / "base.npy", encoder.encode_documents(texts))


def fashion(cache: Path, n: int | None = None, where: Path = FASHION) -> Dataset:
    """Fashion-MNIST, pixels as they are, from the Debian package dataset-fashion-mnist."""
    if not (where / "train-images-idx3-ubyte.gz").exists():
        raise MissingDataError(
            f"no fashion-mnist in {where}: `apt install dataset-fashion-mnist`, or without root `apt download` it, "
            "`dpkg -x PACKAGE.deb DIR`, and --fashion DIR/usr/share/datasets/fashion-mnist"
        )
    folder = cache / ("fashion" if n is None else f"fashion-{n}")
    folder.mkdir(parents=True, exist_ok=True)
    images = [_images(where / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k")]
    return Dataset("fashion", "l2", images[0][:n], {"in distribution": images[1][:QUERIES]}, None, folder)


def _images(path: Path) -> Floats:
    pixels = np.frombuffer(gzip.decompress(path.read_bytes())[16:], np.uint8)
    return pixels.reshape(-1, 784).astype(np.float32)


def synthetic(cache: Path, n: int = 200_000) -> Dataset:
    """768 dimensions, inner product, queries of another kind than the vectors; by tools/synthetic_vectors.py."""
    folder = cache / f"synthetic-{n}"
    if not all((folder / f"{part}.npy").exists() for part in ("base", "query", "learn")):
        tool = DATA / "tools" / "synthetic_vectors.py"
        if not tool.exists():
            raise MissingDataError(f"no {tool}; RAG_DATA names the folder")
        subprocess.run([sys.executable, str(tool), str(folder), "--n", str(n)], check=True)
    base, queries, learn = (np.load(folder / f"{part}.npy") for part in ("base", "query", "learn"))
    name = "synthetic" if n < 1_000_000 else "synthetic1m"
    return Dataset(name, "ip", base, {"out of distribution": queries[:QUERIES]}, learn, folder)


NAMES = ("wordnet", "fashion", "synthetic", "synthetic1m")


def datasets(names: list[str], cache: Path, where: Path, quick: int | None) -> Iterator[Dataset]:
    """Those asked for that can be had; the others are a printed line. `quick`: only so many vectors."""
    for name in names:
        try:
            if name == "wordnet":
                yield wordnet(cache, quick)
            elif name == "fashion":
                yield fashion(cache, quick, where)
            else:
                yield synthetic(cache, quick or {"synthetic": 200_000, "synthetic1m": 1_000_000}[name])
        except MissingDataError as missing:
            print(f"{name} skipped: {missing}", flush=True)
