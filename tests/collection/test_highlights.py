"""Which words of a chunk matched which of a query: the spans, in every script."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag.collection import Collection
from rag.types import Chunk, Document
from tests.collection.samples import (
    ENCODER,
    TOKENS,
    document,
)

DOCUMENTS = [document(f"doc{i}", i) for i in range(12)]
QUERIES = ["doc3 line1", "common version2 kefin", "version7"]


def test_highlights_name_the_words_that_matched(tmp_path: Path) -> None:
    whole = Document("p", "A sheet is a rope. It trims the sail.")
    chunks = [Chunk("p", whole.text[:18], 0, 18), Chunk("p", whole.text[18:], 18, len(whole.text))]
    with Collection.create(tmp_path / "kb", encoder=ENCODER, tokens=TOKENS) as collection:
        with collection.writer() as writer:
            indexed = ["Rigging\n" + c.text for c in chunks]
            writer.add(
                [whole],
                [chunks],
                ENCODER.encode_documents(indexed),
                tokens=TOKENS.encode_documents(indexed),
                texts=indexed,
            )
            writer.commit()
        query = "the rope, rigging"
        first, second = collection.highlights(query, [0, 1], texts=lambda some: ["Rigging\n" + c.text for c in some])
        assert [query[slice(*match.query)] for match in first] == ["the", "rope", "rigging"]
        assert first[1].chunk is not None
        assert chunks[0].text[slice(*first[1].chunk)] == "rope"
        assert first[1].score == pytest.approx(1)
        assert second[0].chunk is not None
        assert chunks[1].text[slice(*second[0].chunk)] == "the"
        assert collection.highlights("", [0]) == [[]]
