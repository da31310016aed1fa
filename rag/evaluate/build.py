"""A collection out of a data set, made once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rag.collection import Collection
from rag.encoders import DEFAULT, Encoder, MultiVectorEncoder, encode_both, load, load_multi_vector
from rag.evaluate.datasets import Dataset
from rag.types import Chunk
from rag.usercache import cache_dir

__all__ = ["collection_of"]

COMMIT = 4096
"""Documents between two commits."""
BLOCK = 256
"""Documents whose tokens are encoded at once: some 100 MiB of 384 numbers a token."""


def collection_of(
    dataset: Dataset,
    *,
    encoder: str | Encoder = DEFAULT,
    tokens: str | MultiVectorEncoder | None = None,
    cache: str | Path | None = None,
    progress: bool = False,
) -> Collection:
    """The data set's documents as a collection with one chunk a document (title and text).

    With `tokens`, an encoder of token vectors or its name, it holds these as well, out of the same pass of the model
    where that makes both. It is kept in the folder `cache` (default: the user's cache) under the data set's name, its
    content and the encoders, so that the next call only opens it; one that was interrupted goes on from its last
    commit.
    """
    made_by = load(encoder) if isinstance(encoder, str) else encoder
    token_encoder = load_multi_vector(tokens) if isinstance(tokens, str) else tokens
    folder = Path(cache or cache_dir() / "evaluate") / f"{dataset.name}-{_digest(dataset, made_by, token_encoder)}"
    if Collection.exists(folder):
        collection = Collection.open(folder, encoder=made_by, token_encoder=token_encoder)
    else:
        collection = Collection.create(folder, encoder=made_by, tokens=token_encoder)
    there = collection.documents()
    missing = [document for document in dataset.documents if document.id not in there]
    if missing:
        from rich.progress import Progress

        block = COMMIT if token_encoder is None else BLOCK
        with collection.writer() as writer, Progress(disable=not progress, transient=True) as bar:
            task = bar.add_task(f"encoding {dataset.name}", total=len(missing))
            for start in range(0, len(missing), block):
                some = missing[start : start + block]
                vectors, vectors_of_tokens = encode_both(
                    made_by, token_encoder, [d.text for d in some], progress=lambda n: bar.advance(task, n)
                )
                chunks = [[Chunk(d.id, d.text, 0, len(d.text))] for d in some]
                writer.add(some, chunks, vectors, tokens=vectors_of_tokens)
                if (start + block) % COMMIT == 0:
                    writer.commit()
            writer.commit()
        collection.refresh()
    return collection


def _digest(dataset: Dataset, encoder: Encoder, token_encoder: MultiVectorEncoder | None) -> str:
    digest = hashlib.sha256(encoder.fingerprint.encode())
    if token_encoder is not None:
        digest.update(token_encoder.fingerprint.encode())
    for document in dataset.documents:
        digest.update(json.dumps([document.id, document.text, document.metadata], sort_keys=True).encode())
    return digest.hexdigest()[:16]
