"""A collection out of a data set, made once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rag.collection import Collection
from rag.encoders import DEFAULT, Encoder, load
from rag.evaluate.datasets import Dataset
from rag.types import Chunk
from rag.usercache import cache_dir

__all__ = ["collection_of"]

BLOCK = 4096  # documents encoded between two commits


def collection_of(
    dataset: Dataset, *, encoder: str | Encoder = DEFAULT, cache: str | Path | None = None, progress: bool = False
) -> Collection:
    """The data set's documents as a collection with one chunk a document (title and text).

    It is kept in the folder `cache` (default: the user's cache) under the data set's name, its content and the encoder,
    so that the next call only opens it; one that was interrupted goes on from its last commit.
    """
    made_by = load(encoder) if isinstance(encoder, str) else encoder
    folder = Path(cache or cache_dir() / "evaluate") / f"{dataset.name}-{_digest(dataset, made_by)}"
    if Collection.exists(folder):
        collection = Collection.open(folder, encoder=made_by)
    else:
        collection = Collection.create(folder, encoder=made_by)
    there = collection.documents()
    missing = [document for document in dataset.documents if document.id not in there]
    if missing:
        from rich.progress import Progress

        with collection.writer() as writer, Progress(disable=not progress, transient=True) as bar:
            task = bar.add_task(f"encoding {dataset.name}", total=len(missing))
            for start in range(0, len(missing), BLOCK):
                block = missing[start : start + BLOCK]
                vectors = made_by.encode_documents(
                    [document.text for document in block], progress=lambda n: bar.advance(task, n)
                )
                writer.add(block, [[Chunk(d.id, d.text, 0, len(d.text))] for d in block], vectors)
                writer.commit()
        collection.refresh()
    return collection


def _digest(dataset: Dataset, encoder: Encoder) -> str:
    digest = hashlib.sha256(encoder.fingerprint.encode())
    for document in dataset.documents:
        digest.update(json.dumps([document.id, document.text, document.metadata], sort_keys=True).encode())
    return digest.hexdigest()[:16]
