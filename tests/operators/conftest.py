"""A small collection with metadata, for the operators that look into one, and the default encoder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rag.collection import Collection
from rag.encoders import Encoder, load
from rag.errors import NotFoundError
from rag.types import Chunk, Document

TEXTS = {
    "winter.md": "In winter the lake freezes and boats stay ashore.",
    "summer.md": "In summer boats sail on the lake every day.",
    "rent.md": "Renting a boat costs twenty euros an hour.",
    "storm.md": "A storm warning is shown by a yellow light.",
}


@pytest.fixture(scope="session")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    with Collection.create(tmp_path_factory.mktemp("operators") / "kb", encoder="hashing:256") as made:
        documents = [
            Document(name, text, {"year": 2018 + i, "topic": "money" if name == "rent.md" else "weather"})
            for i, (name, text) in enumerate(TEXTS.items())
        ]
        with made.writer() as writer:
            writer.add(
                documents,
                [[Chunk(d.id, d.text, 0, len(d.text))] for d in documents],
                made.encoder.encode_documents(list(TEXTS.values())),
            )
            writer.commit()
        made.refresh()
        yield made


@pytest.fixture(scope="session")
def minilm() -> Encoder:
    try:
        return load()
    except NotFoundError as error:
        pytest.skip(str(error))
