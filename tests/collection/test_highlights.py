"""Which words of a chunk matched which of a query: the spans, in every script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rag.collection import Collection
from rag.encoders import Encoder, MultiVectorEncoder, encode_both, load, load_multi_vector
from rag.errors import NotFoundError
from rag.types import Chunk, Document
from tests.collection.samples import ENCODER, TOKENS, check_maxsim

SCRIPTS = {
    "arabic": "كَتَبَ الطالبُ الدرسَ في المكتبة",
    "persian": "می\u200cخواهم به خانه بروم",
    "chinese": "北京大学的图书馆很大。Tokyo は東京です。",
    "marks": "Le cafe\u0301 de Zu\u0308rich, naïve İstanbul ﬁne ½",
    "emoji": "I 👩\u200d🔬 love 👍🏽 soup 🥣 and 🇫🇷 ❤\ufe0f very much",
    "hindi": "हिन्दी में लिखा है",
    "thai": "ภาษาไทย ไม่มีช่องว่าง",
    "korean": "한국어를 열심히 공부합니다",
    "mixed": "Query 北京 and كتاب with 👍 in one Straße, NUL \0 here.",
}


def scripts(path: Path, encoder: Encoder, tokens: MultiVectorEncoder) -> Collection:
    """A collection of all of them, below a title that is no part of their text."""
    made = Collection.create(path, encoder=encoder, tokens=tokens)
    documents = [Document(name, f"{name}🥣{text}") for name, text in SCRIPTS.items()]
    chunks = [[Chunk(d.id, SCRIPTS[d.id], len(d.id) + 1, len(d.text))] for d in documents]
    vectors, vectors_of_tokens = encode_both(encoder, tokens, list(SCRIPTS.values()))
    with made.writer() as writer:
        writer.add(documents, chunks, vectors, tokens=vectors_of_tokens)
        writer.commit()
    return made


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


def test_words_of_every_script_are_found_where_they_stand(tmp_path: Path) -> None:
    with scripts(tmp_path / "kb", ENCODER, TOKENS) as collection:
        check_maxsim(collection, [*SCRIPTS.values(), "soup 🥣 Tokyo 北京 كتاب"])
        for id, text in zip(collection.chunk_ids(), SCRIPTS.values(), strict=True):
            words = re.findall(r"\w+", text)
            query = "🥣 " + ", ".join(reversed(words))
            for above in ("", "Öffentlich 🥣\n"):
                (matches,) = collection.highlights(query, [id], texts=lambda some, a=above: [a + c.text for c in some])
                assert [query[slice(*match.query)] for match in matches] == words[::-1]
                assert [text[slice(*match.chunk)] for match in matches if match.chunk] == words[::-1]


def test_pieces_of_a_model_are_found_where_they_stand(tmp_path: Path) -> None:
    """A text compared with itself: every token is nearest to itself, whatever its normaliser has made of it."""
    try:
        encoder, tokens = load(threads=1), load_multi_vector(threads=1)
    except NotFoundError as error:
        pytest.skip(str(error))
    with scripts(tmp_path / "kb", encoder, tokens) as collection:
        for id, text in zip(collection.chunk_ids(), SCRIPTS.values(), strict=True):
            (matches,) = collection.highlights(text, [id])
            assert [match.chunk for match in matches] == [match.query for match in matches]
            assert all(match.score == pytest.approx(1, abs=1e-4) for match in matches)
            covered = {at for match in matches for at in range(*match.query)}
            letters = {at for at, letter in enumerate(text) if letter.isalpha()}
            assert letters <= covered
