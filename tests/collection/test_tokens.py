"""Token vectors in a collection: found as brute force finds them, whatever was added, deleted, upgraded or lost."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.collection.manifest import FORMAT, Manifest, _crc
from rag.collection.upgrading import FOLDER
from rag.encoders import TokenVectors, load_multi_vector
from rag.errors import CollectionError, DamagedFileError, EncoderMismatchError, InputError
from rag.index.files import read_sections
from rag.index.multivector import TokenCodec
from rag.types import Chunk, Document
from tests.collection.samples import (
    ENCODER,
    TOKENS,
    advance,
    check,
    check_maxsim,
    chunked,
    document,
    filled,
    histories,
    maxsim,
    put,
)
from tests.collection.test_damage import DAMAGES

DOCUMENTS = [document(f"doc{i}", i) for i in range(12)]
QUERIES = ["doc3 line1", "common version2 kefin", "version7"]


class Counting:
    """The encoder of the tests, which counts the texts it encodes, and may be stopped."""

    def __init__(self, most: int = sys.maxsize) -> None:
        self.encoded, self.most = 0, most
        self.name, self.dim = TOKENS.name, TOKENS.dim
        self.max_tokens, self.fingerprint = TOKENS.max_tokens, TOKENS.fingerprint
        self.encode_queries, self.count_tokens = TOKENS.encode_queries, TOKENS.count_tokens

    def encode_documents(self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None) -> TokenVectors:
        if self.encoded + len(texts) > self.most:
            raise KeyboardInterrupt
        self.encoded += len(texts)
        return TOKENS.encode_documents(texts, progress=progress)


def segments_of(collection: Collection) -> list[bool]:
    """Of each segment, whether it has token vectors."""
    return [one.token_vectors is not None for one in collection.info().indexes]


def test_a_history_of_commits_merges_and_deletions_is_found_by_tokens(tmp_path: Path) -> None:
    states = histories()
    with Collection.create(tmp_path / "kb", encoder=ENCODER, tokens=TOKENS) as collection:
        check(collection, next(states))
        for _ in range(12):
            with collection.writer() as writer:
                advance(writer)
            check(collection, next(states))
        collection.compact()
        assert segments_of(collection) == [True]
        check_maxsim(collection, QUERIES)
        assert collection.verify().ok
    with Collection.open(tmp_path / "kb") as again:
        assert again.token_encoder.fingerprint == TOKENS.fingerprint
        check_maxsim(again, QUERIES)
        kept = again.info().token_vectors
        assert kept is not None
        assert (kept.encoder, kept.dim, kept.codec, kept.missing) == ("hashing:16", 16, "residual4", 0)
        assert kept.vectors == len(TOKENS.encode_documents([c.text for c in again.chunks(again.chunk_ids())]).vectors)
        assert kept.bytes_per_vector >= 16


@pytest.mark.parametrize("codec", ["float32", "float16"])
def test_codecs_outlive_merges(tmp_path: Path, codec: str) -> None:
    with Collection.create(tmp_path / "kb", encoder=ENCODER, tokens=TOKENS, token_codec=codec) as collection:  # type: ignore[arg-type]
        for start in range(0, 12, 3):
            with collection.writer() as writer:
                put(writer, DOCUMENTS[start : start + 3])
                writer.commit()
        with collection.writer() as writer:
            writer.delete(["doc1", "doc5"])
            writer.commit()
            writer.compact()
        check_maxsim(collection, QUERIES)
        kept = collection.info().token_vectors
        assert kept is not None
        assert kept.codec == codec


def test_codecs_that_learn_wait_for_enough_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.collection.tokens.LEAST_LEARNED", 500)

    def codecs(kb: Collection) -> list[str]:
        return [read_sections(kept_tokens(kb, i)).meta["codec"] for i in range(len(segments_of(kb)))]

    with Collection.create(tmp_path / "kb", encoder=ENCODER, tokens=TOKENS, token_codec="residual4") as collection:
        for start, end in ((0, 2), (2, 12)):
            with collection.writer() as writer:
                put(writer, [document(f"doc{i}", i, sentences=8) for i in range(start, end)])
                writer.commit()
        assert codecs(collection) == ["float16", "residual4"]
        with collection.writer() as writer:
            writer.delete(["doc3"])
            writer.compact()
        assert codecs(collection) == ["residual4"]
        assert collection.verify().ok
        ids = collection.chunk_ids()
        asked = TOKENS.encode_queries(QUERIES)
        expected = maxsim(asked, TOKENS.encode_documents([c.text for c in collection.chunks(ids)]))
        found = collection.maxsim(asked, np.repeat(ids[None], len(QUERIES), axis=0))
        assert np.abs(found - expected).max() < 0.1 * np.diff(asked.offsets).max()
        for (hits,), own in zip((collection.search_multi_vector([q], 1) for q in QUERIES), expected, strict=True):
            assert own[np.searchsorted(ids, hits.ids[0])] >= own.max() - 0.2


@pytest.mark.parametrize("codec", ["residual4", "sign"])
def test_a_collection_learns_once_and_merges_change_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: TokenCodec
) -> None:
    monkeypatch.setattr("rag.collection.tokens.LEAST_LEARNED", 500)
    with Collection.create(tmp_path / "kb", encoder=ENCODER, tokens=TOKENS, token_codec=codec) as collection:
        for start, end in ((0, 10), (10, 11), (11, 21)):
            with collection.writer() as writer:
                put(writer, [document(f"doc{i}", i, sentences=8) for i in range(start, end)])
                writer.commit()
        files = [read_sections(kept_tokens(collection, i)) for i in range(3)]
        assert [file.meta["codec"] for file in files] == [codec] * 3, "the second commit alone is too small to learn"
        assert len({file.section("base").tobytes() for file in files}) == 1
        with collection.writer() as writer:
            writer.delete(["doc3", "doc15"])
            writer.commit()
        before = collection.search_multi_vector(QUERIES, 10, recall=1)
        with collection.writer() as writer:
            writer.compact()
        assert segments_of(collection) == [True]
        after = collection.search_multi_vector(QUERIES, 10, recall=1)
        for old_hits, new_hits in zip(before, after, strict=True):
            assert new_hits.ids.tolist() == old_hits.ids.tolist()
            assert new_hits.scores.tolist() == old_hits.scores.tolist()
        assert collection.add_tokens(codec="float16") == 1
        assert collection.add_tokens(codec=codec) == 1, "what was float16 is coded again"
        assert read_sections(kept_tokens(collection, 0)).meta["codec"] == codec


def kept_tokens(collection: Collection, segment: int) -> Path:
    """The file of a segment's tokens."""
    file = Manifest.read(collection.path).segments[segment].tokens
    assert file is not None
    return collection.path / file.name


@pytest.mark.parametrize(
    ("dim", "codec"), [(384, "sign"), (256, "sign"), (128, "residual2"), (96, "residual4"), (16, "residual4")]
)
def test_the_codec_that_is_left_out_goes_by_the_dimension(tmp_path: Path, dim: int, codec: TokenCodec) -> None:
    tokens = load_multi_vector(f"hashing:{dim}")
    with Collection.create(tmp_path / "kb", encoder=ENCODER, tokens=tokens) as collection:
        kept = collection.info().token_vectors
        assert kept is not None
        assert kept.codec == codec
        assert collection.add_tokens() == 0


@pytest.mark.parametrize("filter", [None, "even", "version in [1, 4, 7] and number == 1", "version == 99"])
@pytest.mark.parametrize("exhaustive", [True, False])
def test_search_equals_brute_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filter: str | None, exhaustive: bool
) -> None:
    if not exhaustive:
        monkeypatch.setattr("rag.collection.late.ALL", 0)
    with filled(tmp_path / "kb", DOCUMENTS[:7], TOKENS) as collection:
        with collection.writer() as writer:
            put(writer, DOCUMENTS[7:])
            writer.delete(["doc2"])
            writer.commit()
        ids = collection.chunk_ids() if filter is None else collection.select(filter)
        scores = maxsim(
            TOKENS.encode_queries(QUERIES), TOKENS.encode_documents([c.text for c in collection.chunks(ids)])
        )
        # As many candidates as pass the filters; without one all are asked for.
        many = 20 if filter is not None else 36
        found = collection.search_multi_vector(QUERIES, 5, filter=filter, candidates=many)
        for own, hits in zip(scores, found, strict=True):
            assert len(hits) == min(5, len(ids))
            assert np.allclose(hits.scores, np.sort(own)[::-1][:5], atol=0.02)
            assert np.allclose(own[np.searchsorted(ids, hits.ids)], hits.scores, atol=0.02)
        for number, query in enumerate(QUERIES):
            alone = collection.search_multi_vector([query], 5, filter=[filter], candidates=many)
            assert alone == [found[number]]
        vectors, tokens = ENCODER.encode_queries(QUERIES), TOKENS.encode_queries(QUERIES)
        assert collection.search_multi_vector(tokens, 5, vectors=vectors, filter=filter, candidates=many) == found
        mixed = collection.search_multi_vector(QUERIES, 5, filter=[filter, None, filter], candidates=many)
        assert (mixed[0], mixed[2]) == (found[0], found[2])


def test_candidates_bound_what_is_scored_and_full_recall_scores_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.collection.late.ALL", 0)
    with filled(tmp_path / "kb", DOCUMENTS, TOKENS) as collection:
        (near,) = collection.search_dense(ENCODER.encode_queries(["doc3 line1"]), 4)
        (found,) = collection.search_multi_vector(["doc3 line1"], 2, candidates=4)
        assert {*found.ids.tolist()} < {*near.ids.tolist()}
        (best,) = collection.search_multi_vector(["doc3 line1"], 36, recall=1)
        assert len(best) == 36
        with pytest.raises(InputError, match="vectors="):
            collection.search_multi_vector(TOKENS.encode_queries(QUERIES), 5, candidates=6)


def test_chunks_and_queries_without_tokens(tmp_path: Path) -> None:
    texts = ["words here", "...", "other words"]
    made = [Document(str(i), text) for i, text in enumerate(texts)]
    with Collection.create(tmp_path / "kb", encoder=ENCODER, tokens=TOKENS) as collection:
        with collection.writer() as writer:
            chunks = [[Chunk(d.id, d.text, 0, len(d.text))] for d in made]
            writer.add(made, chunks, ENCODER.encode_documents(texts), tokens=TOKENS.encode_documents(texts))
            writer.commit()
        assert collection.has_tokens
        words, nothing = collection.search_multi_vector(["words", "?!"], 3)
        assert sorted(words.ids.tolist()) == [0, 2]
        assert len(nothing) == 0
        scores = collection.maxsim(TOKENS.encode_queries(["words", "?!"]), [[0, 1, -1, 2], [2, -1, 0, 1]])
        assert np.isneginf(scores[0]).tolist() == [False, True, True, False]
        assert scores[1].tolist() == [0, -np.inf, 0, 0]
        assert collection.highlights("words", [1]) == [[]]
        assert collection.verify().ok


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


# --- what does not fit


def test_tokens_are_needed_exactly_where_a_collection_holds_them(tmp_path: Path) -> None:
    whole = DOCUMENTS[0]
    texts = [c.text for c in chunked(whole)]
    vectors, tokens = ENCODER.encode_documents(texts), TOKENS.encode_documents(texts)
    with filled(tmp_path / "plain", DOCUMENTS[:2]) as plain:
        with plain.writer() as writer, pytest.raises(InputError, match="--multi-vector"):
            writer.add([whole], [chunked(whole)], vectors, tokens=tokens)
        assert not plain.has_tokens
        for use in (
            lambda: plain.token_encoder,
            lambda: plain.search_multi_vector(["x"], 1),
            lambda: plain.maxsim(tokens, [[0]] * 3),
            lambda: plain.highlights("x", [0]),
        ):
            with pytest.raises(CollectionError, match=r"holds no token vectors.*rag upgrade .*plain --multi-vector"):
                use()
    with filled(tmp_path / "kb", DOCUMENTS[:2], TOKENS) as collection:
        wide = TokenVectors(np.ones((3, 4), np.float32), np.arange(4), np.zeros((3, 2), np.int32))
        broken = TokenVectors(tokens.vectors * np.nan, tokens.offsets, tokens.spans)
        with collection.writer() as writer:
            for given, message in (
                (None, "come without"),
                (TOKENS.encode_documents(texts[:2]), "2 texts for 3 chunks"),
                (wide, r"\(3, 4\)"),
                (broken, "nan|NaN|finite"),
            ):
                with pytest.raises(InputError, match=message):
                    writer.add([whole], [chunked(whole)], vectors, tokens=given)
            with pytest.raises(InputError):
                writer.add([whole], [chunked(whole)], vectors * np.nan, tokens=tokens)
            writer.add([whole], [chunked(whole)], vectors, tokens=tokens)
            writer.commit()
        check_maxsim(collection, QUERIES)
        with pytest.raises(InputError, match="list of texts"):
            collection.search_multi_vector("x", 1)
        with pytest.raises(InputError, match="k is 0"):
            collection.search_multi_vector(["x"], 0)
        with pytest.raises(InputError, match="a row for each"):
            collection.maxsim(TOKENS.encode_queries(["a", "b"]), [[0, 1]])
        with pytest.raises(EncoderMismatchError, match="hashing:32"):
            Collection.open(collection.path, token_encoder=load_multi_vector("hashing:32"))


# --- upgrades


@pytest.fixture
def old(tmp_path: Path) -> Collection:
    """Three segments without token vectors, with deleted chunks, as a release before them has left it."""
    path = tmp_path / "kb"
    with filled(path, DOCUMENTS[:6]) as made:
        for some in (DOCUMENTS[6:10], DOCUMENTS[10:]):
            with made.writer() as writer:
                put(writer, some)
                writer.commit()
        with made.writer() as writer:
            writer.delete(["doc4", "doc11"])
            writer.commit()
    content = json.loads((path / "manifest.json").read_text())
    for newer in ("crc32c", "tokens"):
        del content[newer]
    for segment in content["segments"]:
        del segment["tokens"]
    content["format"] = 2
    (path / "manifest.json").write_text(json.dumps({"crc32c": _crc(content), **content}))
    return Collection.open(path, encoder=ENCODER)


STATE = {d.id: d for d in DOCUMENTS if d.id not in ("doc4", "doc11")}


def test_a_collection_of_before_is_read_and_upgraded(old: Collection) -> None:
    check(old, STATE)
    assert old.info().token_vectors is None
    generation = old.generation
    told: list[tuple[str, int, int]] = []
    assert old.add_tokens(progress=lambda *state: told.append(state)) == 3
    assert old.generation == generation + 4, "one that says what is held, then one for each segment"
    check(old, STATE)
    assert old.verify().ok
    assert Manifest.read(old.path).format == FORMAT
    assert [state for state in told if state[0] == "encoding token vectors"][0::5] == [
        ("encoding token vectors", 0, 30),
        ("encoding token vectors", 30, 30),
    ]
    assert old.token_encoder.name == ENCODER.name, "by default the model of the single vectors"
    assert old.add_tokens() == 0
    assert old.generation == generation + 4
    assert not (old.path / FOLDER).exists()
    with old.writer() as writer:
        put(writer, [document("doc4", 9)])
        writer.compact()
    check(old, {**STATE, "doc4": document("doc4", 9)})


def test_an_interrupted_upgrade_goes_on_where_it_was(old: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.collection.upgrading.PIECE", 4)
    stopped = Counting(most=20)
    with pytest.raises(KeyboardInterrupt):
        old.add_tokens(stopped)
    assert segments_of(old) == [True, False, False]
    kept = old.info().token_vectors
    assert kept is not None
    assert kept.missing == 15
    for use in (lambda: old.search_multi_vector(["x"], 1), lambda: old.maxsim(TOKENS.encode_queries(["x"]), [[0]])):
        with pytest.raises(CollectionError, match=r"15 of 30 chunks .* not finished.*rag upgrade"):
            use()
    assert not old.has_tokens
    check(old, STATE)  # all else goes on
    with old.writer() as writer:  # and so does writing, with tokens
        put(writer, [document("doc4", 9)])
        writer.commit()
        put(writer, [document("doc11", 9)])
        writer.commit()
        writer.compact()
    assert segments_of(old) == [True, False, True], "what has tokens is not merged with what has none"
    again = Counting()
    assert old.add_tokens(again) == 1
    assert again.encoded == 30 - stopped.encoded, "no chunk is encoded twice"
    check(old, {**STATE, "doc4": document("doc4", 9), "doc11": document("doc11", 9)})
    assert not (old.path / FOLDER).exists()


def test_pieces_that_were_damaged_are_encoded_again(old: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.collection.upgrading.PIECE", 4)
    with pytest.raises(KeyboardInterrupt):
        old.add_tokens(Counting(most=10))
    for piece in (old.path / FOLDER).iterdir():
        piece.write_bytes(piece.read_bytes()[:100])
    again = Counting()
    old.add_tokens(again)
    assert again.encoded == 30
    check(old, STATE)


def test_another_encoder_or_codec(old: Collection) -> None:
    old.add_tokens(TOKENS)
    assert old.add_tokens(codec="float32") == 3
    kept = old.info().token_vectors
    assert kept is not None
    assert kept.codec == "float32"
    check(old, STATE)
    wide = load_multi_vector("hashing:32")
    assert old.add_tokens(wide) == 3
    assert (old.token_encoder.name, old.token_encoder.dim) == ("hashing:32", 32)
    (hits,) = old.search_multi_vector(["doc3 line1"], 1)
    assert hits.chunks()[0].text.startswith("doc3 version3 line1")
    assert len(list((old.path / "segments").glob("*.tokens"))) == 3, "the others are gone"


def test_readers_go_on_while_a_collection_is_upgraded(old: Collection) -> None:
    vectors = ENCODER.encode_queries(QUERIES)
    true = [hits.ids.tolist() for hits in old.search_dense(vectors, 5)]
    stop, searches, problems = threading.Event(), [0], []

    def read(refresh: bool) -> None:
        with Collection.open(old.path, encoder=ENCODER) as reader:
            while not stop.is_set() or not searches[0]:
                if [hits.ids.tolist() for hits in reader.search_dense(vectors, 5)] != true:
                    problems.append(reader.generation)
                searches[0] += 1
                if refresh:
                    reader.refresh()

    readers = [threading.Thread(target=read, args=(refresh,)) for refresh in (False, True)]
    for reader in readers:
        reader.start()
    try:
        old.add_tokens(TOKENS)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert searches[0]
    assert not problems
    check_maxsim(old, QUERIES)


# --- damage


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


def test_a_reader_keeps_its_tokens_until_it_refreshes(tmp_path: Path) -> None:
    states = list(islice(histories(), 5))
    with Collection.create(tmp_path / "kb", encoder=ENCODER, tokens=TOKENS) as writing:
        readers = []
        for _ in range(4):
            readers.append(Collection.open(tmp_path / "kb"))
            with writing.writer() as writer:
                advance(writer)
        writing.compact()
        for reader, state in zip(readers, states, strict=False):
            check(reader, state)
            reader.close()
