"""What may go wrong with token vectors: damaged files, full disks, odd texts."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection, Writer
from rag.encoders import load_multi_vector
from rag.errors import CollectionError, DamagedFileError, InputError
from rag.types import Chunk, Document
from tests.collection.samples import ENCODER, TOKENS, Counting, check, check_maxsim, document, filled, maxsim, put
from tests.collection.test_damage import DAMAGES

DOCUMENTS = [document(f"doc{i}", i) for i in range(12)]
QUERIES = ["doc3 line1", "common version2 kefin", "version7"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_tokens_is_named_and_rebuilt(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    with filled(tmp_path / "kb", DOCUMENTS[:6], TOKENS) as made, made.writer() as writer:
        put(writer, [document("doc3", 3)])
        writer.commit()
    path = sorted((tmp_path / "kb" / "segments").glob("*.tokens"))[0]
    damage(path)
    with pytest.raises(DamagedFileError, match=path.name) as error, Collection.open(tmp_path / "kb") as collection:
        check_maxsim(collection, QUERIES)
    assert "rebuil" in str(error.value) or "repair" in str(error.value)
    with Collection.open(tmp_path / "kb", repair=True) as collection:
        assert path.name in " ".join(collection.verify().problems)
        assert collection.rebuild().ok
        check(collection, {d.id: d for d in DOCUMENTS[:6]})
    with Collection.open(tmp_path / "kb") as collection:
        check(collection, {d.id: d for d in DOCUMENTS[:6]})


def test_repair_of_other_files_keeps_the_tokens(tmp_path: Path) -> None:
    with filled(tmp_path / "kb", DOCUMENTS[:6], TOKENS) as made, made.writer() as writer:
        writer.delete(["doc1"])
        writer.commit()
    next((tmp_path / "kb" / "segments").glob("*.vectors")).unlink()
    counting = Counting()
    with Collection.open(tmp_path / "kb", repair=True, token_encoder=counting) as collection:
        assert collection.rebuild().ok
        assert counting.encoded == 0
        check(collection, {d.id: d for d in DOCUMENTS[:6] if d.id != "doc1"})


def test_a_file_of_other_chunks_is_noticed(tmp_path: Path) -> None:
    with filled(tmp_path / "kb", DOCUMENTS[:2], TOKENS) as made, made.writer() as writer:
        put(writer, DOCUMENTS[2:4])
        writer.commit()
    first, second = sorted((tmp_path / "kb" / "segments").glob("*.tokens"))
    shutil.copy(first, second)
    with pytest.raises(DamagedFileError, match=second.name):
        Collection.open(tmp_path / "kb")


# --- texts as they come


def whole(name: str, text: str) -> tuple[Document, list[Chunk]]:
    """A document that is one chunk."""
    return Document(name, text), [Chunk(name, text, 0, len(text))]


LONG = " ".join(f"word{i % 3000}" for i in range(99_999)) + " last"
TEXTS = {"empty": "", "blank": " \n\t", "marks": "?! ... --- «»", "nul": "a\0b \ud7ff", "short": "word7", "long": LONG}


def taken(writer: Writer, texts: dict[str, str]) -> None:
    documents, chunks = zip(*(whole(name, text) for name, text in texts.items()), strict=True)
    written = list(texts.values())
    vectors = np.ones((len(texts), ENCODER.dim), np.float32)
    writer.add(documents, chunks, vectors, tokens=TOKENS.encode_documents(written))


def test_texts_of_no_words_and_of_a_hundred_thousand(tmp_path: Path) -> None:
    made = Collection.create(tmp_path / "kb", encoder=ENCODER, tokens=TOKENS, token_codec="int8")
    with made, made.writer() as writer:
        taken(writer, {name: TEXTS[name] for name in ("empty", "long", "marks")})
        writer.commit()
        taken(writer, {name: TEXTS[name] for name in ("blank", "nul", "short")})
        writer.add([Document("no chunks", "")], [[]], [], tokens=TOKENS.encode_documents([]))
        writer.commit()
        writer.compact()
    with Collection.open(tmp_path / "kb") as collection:
        assert len(collection.documents()) == 7
        ids = collection.chunk_ids()
        texts = [chunk.text for chunk in collection.chunks(ids)]
        worded = [bool(len(TOKENS.encode_documents([text]).vectors)) for text in texts]
        assert sum(worded) == 3
        asked = TOKENS.encode_queries(["word7 last", "b"])
        stored = TOKENS.encode_documents([text for text, some in zip(texts, worded, strict=True) if some])
        expected = maxsim(asked, stored)
        scores = collection.maxsim(asked, np.repeat(ids[None], 2, axis=0))
        assert np.allclose(scores[:, worded], expected, atol=0.02)
        assert np.isneginf(scores[:, ~np.array(worded)]).all()
        first, _ = collection.search_multi_vector(["word7 last", "b"], 10)
        assert len(first) == 3
        assert first.chunks()[0].document == "long"
        (matches,) = collection.highlights("last word7", collection.chunk_ids("long"))
        assert [LONG[slice(*match.chunk)] for match in matches if match.chunk] == ["last", "word7"]
        (many,) = collection.highlights(" ".join(f"word{i}" for i in range(500)), collection.chunk_ids("long"))
        assert len(many) == 500
        assert collection.verify().ok


def test_a_query_of_many_words_is_answered_as_its_parts_are(tmp_path: Path) -> None:
    with filled(tmp_path / "kb", DOCUMENTS[:3], TOKENS) as collection:
        ids = collection.chunk_ids()[None]
        many = TOKENS.encode_queries(["common line1 " * 5000])
        few = TOKENS.encode_queries(["common line1"])
        assert np.allclose(collection.maxsim(many, ids), 5000 * collection.maxsim(few, ids), rtol=1e-4)


def test_the_system_refuses_to_write_a_file_of_tokens(tmp_path: Path) -> None:
    state = {d.id: d for d in DOCUMENTS[:3]}
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with filled(tmp_path / "kb", list(state.values()), TOKENS) as collection, collection.writer() as writer:
        taken(writer, {"long": LONG[:400_000]})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            with pytest.raises(CollectionError) as error:
                writer.commit()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert error.value.hint
        check(collection, state)
        assert collection.verify().ok
        put(writer, [DOCUMENTS[3]])
        writer.commit()
        check(collection, {d.id: d for d in DOCUMENTS[:4]})


def test_sets_of_different_dimensions_are_told_from_each_other(tmp_path: Path) -> None:
    with filled(tmp_path / "kb", DOCUMENTS[:2], TOKENS) as collection:
        wide = load_multi_vector("hashing:32")
        for use in (
            lambda: collection.maxsim(wide.encode_queries(["x"]), [[0]]),
            lambda: collection.search_multi_vector(wide.encode_queries(["x"]), 1),
        ):
            with pytest.raises(InputError, match=r"\(1, 32\), this collection needs \[tokens, 16\]"):
                use()
