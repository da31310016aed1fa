"""What a user of one collection, in one process, relies on."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection, Fingerprint
from rag.encoders import load
from rag.errors import CollectionError, EncoderMismatchError, InputError, LockedError, NotFoundError, RagError
from rag.types import Chunk, ChunkStore, Document
from tests.collection.samples import ENCODER, advance, check, chunked, document, filled, histories, put


def test_a_history_of_commits_reads_back_at_every_step(tmp_path: Path) -> None:
    states = histories()
    with Collection.create(tmp_path / "kb", encoder=ENCODER) as collection:
        assert isinstance(collection, ChunkStore)
        check(collection, next(states))
        for _ in range(15):
            with collection.writer() as writer:
                assert advance(writer) == collection.generation
            check(collection, next(states))
        assert collection.verify().ok
        state = {name: collection.document(name) for name in collection.documents()}
        collection.compact()
        check(collection, state)
        assert collection.info().segments == 1
        assert collection.info().deleted == 0
    with Collection.open(tmp_path / "kb", encoder=ENCODER) as again:
        check(again, state)
        assert again.verify().ok


def test_hits_carry_their_text_in_order(tmp_path: Path) -> None:
    with filled(tmp_path / "kb", [document(f"doc{i}") for i in range(5)]) as collection:
        (hits,) = collection.search_lexical(["doc3 line1"], 3)
        texts = [c.text for c in hits.chunks()]
        assert texts[0].startswith("doc3 version0 line1")
        backwards = hits.take(slice(None, None, -1)).chunks()
        assert [c.text for c in backwards] == texts[::-1]
        assert [c.id for c in collection.chunks([4, 0, 4])] == [4, 0, 4]
        assert collection.chunks([]) == []
        first, second = collection.chunks([0, 1])
        assert first.metadata == document("doc0").metadata
        assert second.metadata == {**document("doc0").metadata, "number": 1}
        assert second.parent == (0, len(document("doc0").text))


def test_many_queries_equal_one_by_one(tmp_path: Path) -> None:
    with filled(tmp_path / "kb", [document(f"doc{i}") for i in range(9)]) as collection:
        texts = ["doc1", "version0 doc2", "nothing of this"]
        vectors = ENCODER.encode_queries(texts)
        for filter in (None, "even", "number == 1"):
            assert collection.search_lexical(texts, 4, filter=filter) == [
                collection.search_lexical([text], 4, filter=filter)[0] for text in texts
            ]
            assert collection.search_dense(vectors, 4, filter=filter) == [
                collection.search_dense(vector, 4, filter=filter)[0] for vector in vectors
            ]
        assert len(collection.search_lexical(texts, 4)[2]) == 0
        assert [len(h) for h in collection.search_dense(vectors, 100)] == [27] * 3
        assert [len(h) for h in collection.search_dense(vectors, 100, filter="number == 7")] == [0] * 3


def test_dense_search_over_segments_equals_brute_force(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    with Collection.create(tmp_path / "kb", encoder=ENCODER, metric="l2") as collection:
        vectors: dict[int, np.ndarray] = {}
        with collection.writer() as writer:
            for round in range(5):
                wholes = [document(f"doc{round}-{i}", round) for i in range(7)]
                matrix = rng.standard_normal((21, ENCODER.dim)).astype(np.float32)
                vectors |= dict(
                    zip(writer.add(wholes, [chunked(d) for d in wholes], matrix).tolist(), matrix, strict=True)
                )
                gone = collection.chunk_ids(f"doc{round - 1}-3").tolist() if round else []
                writer.delete([f"doc{round - 1}-3"])
                writer.commit()
                for id in gone:
                    del vectors[id]
        assert collection.info().segments == 5
        queries = rng.standard_normal((4, ENCODER.dim)).astype(np.float32)
        for filter, allowed in ((None, lambda chunk: True), ("version in [1, 3]", lambda chunk: chunk // 21 in (1, 3))):
            ids = np.array([id for id in sorted(vectors) if allowed(id)])
            matrix = np.stack([vectors[id] for id in ids]).astype(np.float64)
            for query, hits in zip(queries, collection.search_dense(queries, 10, filter=filter), strict=True):
                scores = -((matrix - query) ** 2).sum(axis=1)
                order = np.argsort(-scores)[:10]
                assert hits.ids.tolist() == ids[order].tolist()
                assert np.allclose(hits.scores, scores[order], rtol=1e-5)


def test_text_of_spans_and_lines(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("abé漢😀 \n"), size=9000))
    wholes = [
        Document("long", text),
        Document("empty", ""),
        Document("exact", "x" * 4000),
        Document("lines", "\n" * 2001),
    ]
    with Collection.create(tmp_path / "kb", encoder=ENCODER) as collection:
        with collection.writer() as writer:
            writer.add(wholes, [[]] * 4, np.empty((0, ENCODER.dim)))
            writer.commit()
        for whole in wholes:
            assert collection.document(whole.id) == whole
            length = len(whole.text)
            ends = [0, length] if not length else [0, 1, 1999, 2000, 2001, 3999, 4000, length, length // 2]
            spans = [(whole.id, a, b) for a in ends for b in ends if a <= b <= length]
            assert collection.texts(spans) == [whole.text[a:b] for _, a, b in spans]
            places = [(whole.id, at) for at in ends if at <= length]
            assert collection.lines(places) == [whole.text.count("\n", 0, at) + 1 for _, at in places]
        assert collection.text("long", 5000) == text[5000:]
        with pytest.raises(InputError, match="9000 characters"):
            collection.text("long", 3, 9001)
        with pytest.raises(NotFoundError, match="'long'"):
            collection.text("lomg", 0, 1)


def test_what_is_not_there(tmp_path: Path) -> None:
    with filled(tmp_path / "kb", [document("a")]) as collection:
        with pytest.raises(NotFoundError, match="chunk 3 is not in generation 1"):
            collection.chunks([0, 3])
        with pytest.raises(NotFoundError):
            collection.vectors([3])
        with pytest.raises(NotFoundError):
            collection.document("b")
        (hits,) = collection.search_lexical(["line1"], 1)
        with collection.writer() as writer:
            assert writer.delete(["a", "b"]) == 1
            writer.commit()
        with pytest.raises(NotFoundError, match="search again"):
            hits.chunks()
        assert collection.search_lexical(["line1"], 1)[0].ids.size == 0


def test_sources_tell_what_changed(tmp_path: Path) -> None:
    a, b = document("a"), document("b")
    with Collection.create(tmp_path / "kb", encoder=ENCODER) as collection:
        with collection.writer() as writer:
            writer.add([a, b], [[], []], [], sources=[Fingerprint("d1", 7, 11), Fingerprint("d2", 8, 12)])
            writer.commit()
        with collection.writer() as writer:
            writer.touch({"a": Fingerprint("d1", 9, 11), "b": Fingerprint("other", 9, 12)})
            writer.commit()
        assert collection.documents() == {"a": ("d1", 9, 11), "b": ("d2", 8, 12)}
        assert collection.verify().ok


def test_changes_before_a_commit_add_up(tmp_path: Path) -> None:
    with filled(tmp_path / "kb", [document("a"), document("b")]) as collection, collection.writer() as writer:
        put(writer, [document("a", 1), document("c", 1)])
        put(writer, [document("c", 2), document("d", 2)])
        assert writer.delete(["d", "b"]) == 2
        assert writer.delete_where("version == 1") == 1
        put(writer, [document("e", 3)])
        assert collection.generation == 1
        check(collection, {n: document(n) for n in "ab"})
        writer.commit()
        check(collection, {"c": document("c", 2), "e": document("e", 3)})
        assert writer.commit() == 2, "nothing to commit makes no generation"


def test_what_is_not_committed_is_dropped(tmp_path: Path) -> None:
    with filled(tmp_path / "kb", [document("a")]) as collection:
        with collection.writer() as writer:
            put(writer, [document("b")])
        with suppress(KeyboardInterrupt), collection.writer() as writer:
            put(writer, [document("c")])
            writer.delete(["a"])
            raise KeyboardInterrupt
        check(collection, {"a": document("a")})
        with collection.writer() as writer:
            put(writer, [document("d")])
            writer.commit()
        check(collection, {n: document(n) for n in "ad"})
        assert collection.verify().ok


def test_input_that_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    whole = document("b")
    good = chunked(whole)
    one = np.ones((1, ENCODER.dim), np.float32)
    cases = [
        ([whole], [], one, "1 documents, 0 lists"),
        ([whole], [good], one, r"expected \(3, 16\)"),
        ([whole], [[Chunk("b", "nonsense", 0, 8)]], one, "does not read like the text there"),
        ([whole], [[Chunk("x", "", 0, 0)]], one, "belongs to 'x'"),
        ([whole], [[Chunk("b", "", 5, 4)]], one, "not inside its text"),
        ([whole], [[Chunk("b", whole.text[:2], 0, 2, parent=(1, 3))]], one, "not inside its parent"),
        ([whole], [good[:1]], one * np.nan, "NaN|infin|finite"),
        ([whole], [good[:1]], one * 0, "zero"),
        ([whole, whole], [[], []], [], "twice"),
        ([Document("", "x")], [[]], [], "id of a document"),
        ([Document("b", "half \ud83d")], [[]], [], "character 5"),
        ([Document("b", "", {"x": {1, 2}})], [[]], [], "metadata"),
        ([Document("b", "", {"x": float("nan")})], [[]], [], "metadata"),
        ([Document("b", "", {3: 4})], [[]], [], "metadata"),  # type: ignore[dict-item]
    ]
    with filled(tmp_path / "kb", [document("a")]) as collection, collection.writer() as writer:
        put(writer, [document("c")])
        for documents, chunks, vectors, message in cases:
            with pytest.raises(InputError, match=message):
                writer.add(documents, chunks, vectors)
        with pytest.raises(InputError, match="list of document ids"):
            writer.delete("a")
        writer.commit()
        check(collection, {n: document(n) for n in "ac"})
        for bad in ([[1.0]], np.ones((1, 3)), np.full((1, ENCODER.dim), np.nan)):
            with pytest.raises(InputError):
                collection.search_dense(bad, 3)
        with pytest.raises(InputError):
            collection.search_dense(one, 0)
        with pytest.raises(InputError, match=r"\['words'\]"):
            collection.search_lexical("words", 3)


def test_the_encoder_is_the_one_that_made_the_vectors(tmp_path: Path) -> None:
    filled(tmp_path / "kb", [document("a")]).close()
    with Collection.open(tmp_path / "kb") as collection:
        assert collection.encoder.fingerprint == ENCODER.fingerprint
    with pytest.raises(EncoderMismatchError, match=r"'hashing:16' .* 'hashing:32'.*index the sources again"):
        Collection.open(tmp_path / "kb", encoder=load("hashing:32"))


def test_settings_and_figures(tmp_path: Path) -> None:
    settings = {"chunker": {"name": "sentences", "size": 200}}
    with Collection.create(tmp_path / "kb", encoder=ENCODER, codec="int8", language="none", settings=settings) as made:
        assert made.settings == settings
        with made.writer() as writer:
            writer.settings["title"] = "ä"
            writer.commit()
        assert made.settings == {**settings, "title": "ä"}
        info = made.info()
        assert (info.codec, info.language, info.metric, info.dim) == ("int8", "none", "cosine", 16)
        assert (info.documents, info.chunks, info.segments, info.generation) == (0, 0, 0, 1)
        assert set(info.bytes) == {"text", "vectors", "postings"}
        with made.writer() as writer:
            writer.settings["bad"] = object()
            with pytest.raises(InputError, match="settings"):
                writer.commit()


@pytest.mark.parametrize("setting", [{"metric": "dot"}, {"codec": "int4"}, {"language": "klingon"}])
def test_unknown_settings_make_no_folder(tmp_path: Path, setting: dict[str, str]) -> None:
    with pytest.raises((RagError, ValueError)):
        Collection.create(tmp_path / "kb", encoder=ENCODER, **setting)  # type: ignore[arg-type]
    assert not (tmp_path / "kb").exists()


def test_folders_that_are_no_collection(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "letter.txt").write_text("x")
    for name in ("nothing", "file", "documents"):
        assert not Collection.exists(tmp_path / name)
        for repair in (False, True):
            with pytest.raises(NotFoundError, match="is not a collection"):
                Collection.open(tmp_path / name, repair=repair)
    for name in ("file", "documents", "file/below"):
        with pytest.raises(CollectionError):
            Collection.create(tmp_path / name, encoder=ENCODER)
    (tmp_path / "empty").mkdir()
    Collection.create(tmp_path / "empty", encoder=ENCODER).close()
    assert Collection.exists(tmp_path / "empty")
    with pytest.raises(CollectionError, match="already holds a collection"):
        Collection.create(tmp_path / "empty", encoder=ENCODER)


def test_a_newer_format_asks_for_a_newer_version(tmp_path: Path) -> None:
    from rag.collection.manifest import FORMAT, Manifest, _crc

    filled(tmp_path / "kb", [document("a")]).close()
    path = tmp_path / "kb" / "manifest.json"
    content = json.loads(path.read_text())
    del content["crc32c"]
    content["format"] = FORMAT + 1
    content["something"] = "new"
    path.write_text(json.dumps({"crc32c": _crc(content), **content}))
    with pytest.raises(CollectionError, match=rf"format {FORMAT + 1}.*upgrade"):
        Collection.open(tmp_path / "kb")
    assert Manifest.model_config["extra"] == "forbid"


def test_a_closed_collection_says_so(tmp_path: Path) -> None:
    collection = filled(tmp_path / "kb", [document("a")])
    collection.close()
    collection.close()
    for use in (lambda: collection.generation, lambda: collection.chunks([0]), lambda: collection.refresh()):
        with pytest.raises(CollectionError, match="closed"):
            use()
    with pytest.raises(CollectionError, match="closed"), collection.writer():
        pass


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with filled(tmp_path / "kb", [document("a")]) as first, Collection.open(tmp_path / "kb") as second:
        with first.writer() as writer:
            put(writer, [document("b")])
            with pytest.raises(LockedError, match=r"process \d+.*wait"), second.writer():
                pass
            with pytest.raises(LockedError), second.writer(wait=0.1):
                pass
            writer.commit()
        with pytest.raises(CollectionError, match="not open"):
            writer.commit()
        with second.writer() as other:
            assert other.generation == 2, "a writer starts from the newest generation"
            other.delete(["b"])
            other.commit()
        first.refresh()
        check(first, {"a": document("a")})
