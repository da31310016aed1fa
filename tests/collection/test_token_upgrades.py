"""Token vectors that come later: upgrades, their interruptions, and other encoders than before."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag.collection import Collection
from rag.collection.manifest import FORMAT, Manifest
from rag.collection.upgrading import FOLDER
from rag.encoders import TokenVectors, load_multi_vector
from rag.errors import CollectionError, ConfigError, EncoderMismatchError, InputError
from tests.collection.samples import (
    ENCODER,
    POOLED,
    TOKENS,
    Counting,
    check,
    check_maxsim,
    chunked,
    document,
    downgrade,
    edit_manifest,
    filled,
    full_disk,
    put,
    readers_beside,
    segments_of,
)

DOCUMENTS = [document(f"doc{i}", i) for i in range(12)]
QUERIES = ["doc3 line1", "common version2 kefin", "version7"]


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
    downgrade(path, 2)
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
    with readers_beside(old, ENCODER.encode_queries(QUERIES)):
        old.add_tokens(TOKENS)
    check_maxsim(old, QUERIES)


@pytest.mark.parametrize("call", range(1, 40, 3))
def test_a_disk_that_fills_up_in_an_upgrade_costs_nothing(
    old: Collection, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    monkeypatch.setattr("rag.collection.upgrading.PIECE", 4)
    counting = Counting()
    with full_disk(call) as calls:
        try:
            old.add_tokens(counting)
        except CollectionError as error:
            assert "No space left" in str(error)  # noqa: PT017
            assert error.hint  # noqa: PT017
    with Collection.open(old.path, encoder=ENCODER) as reader:
        check(reader, STATE)
        assert reader.verify().ok
    assert len(calls) >= call, "an upgrade has more writes"
    before = counting.encoded
    old.add_tokens(counting)
    assert counting.encoded - before <= 30 - max(before - 4, 0), "the piece that found no room is all that is lost"
    check(old, STATE)


# --- pooling is a part of what made them


def test_pooled_tokens_are_kept_found_and_known_by_their_factor(tmp_path: Path) -> None:
    with filled(tmp_path / "kb", DOCUMENTS, POOLED) as made:
        words = len(TOKENS.encode_documents([c.text for c in made.chunks(made.chunk_ids())]).vectors)
    with Collection.open(tmp_path / "kb") as collection:
        assert (collection.token_encoder.name, collection.token_encoder.pool_factor) == (TOKENS.name, 2)
        check_maxsim(collection, QUERIES)
        kept = collection.info().token_vectors
        assert kept is not None
        assert kept.pool_factor == 2
        assert 0.4 * words < kept.vectors < 0.6 * words
        (matches,) = collection.highlights("line1 doc3", collection.chunk_ids("doc3")[1:2])
        assert [match.chunk for match in matches] == [(14, 19), (0, 4)], "single words, however tokens are pooled"
    with pytest.raises(EncoderMismatchError, match=r"pooled by 2.*--token-encoder hashing:16 --token-pool 1"):
        Collection.open(tmp_path / "kb", token_encoder=TOKENS)


def test_tokens_of_another_encoder_than_the_collections_are_refused(tmp_path: Path) -> None:
    texts = [c.text for c in chunked(DOCUMENTS[3])]
    vectors, pooled = ENCODER.encode_documents(texts), POOLED.encode_documents(texts)
    unnamed = TokenVectors(pooled.vectors, pooled.offsets, pooled.spans)
    with filled(tmp_path / "kb", DOCUMENTS[:2], TOKENS) as collection:
        with collection.writer() as writer:
            with pytest.raises(EncoderMismatchError, match=r"fingerprint \w{12}.*collection\.token_encoder"):
                writer.add([DOCUMENTS[3]], [chunked(DOCUMENTS[3])], vectors, tokens=pooled)
            writer.add([DOCUMENTS[3]], [chunked(DOCUMENTS[3])], vectors, tokens=unnamed)
        for use in (
            lambda: collection.maxsim(POOLED.encode_queries(["x"]), [[0]]),
            lambda: collection.search_multi_vector(POOLED.encode_queries(["x"]), 1),
        ):
            with pytest.raises(EncoderMismatchError):
                use()


def test_tokens_of_another_version_of_a_model_are_made_again_when_that_is_asked_for(tmp_path: Path) -> None:
    filled(tmp_path / "kb", DOCUMENTS, TOKENS).close()
    edit_manifest(tmp_path / "kb", lambda content: content["tokens"].update(fingerprint="0" * 32))
    with Collection.open(tmp_path / "kb", encoder=ENCODER) as collection:
        assert collection.info().token_vectors is not None
        found = collection.search_dense(ENCODER.encode_queries(QUERIES), 3)
        assert [len(hits) for hits in found] == [3, 3, 3], "all else goes on"
        for use in (
            lambda: collection.search_multi_vector(QUERIES, 3),
            lambda: collection.highlights("x", [0]),
            lambda: collection.maxsim(TOKENS.encode_queries(["x"]), [[0]]),
            lambda: collection.add_tokens(),
        ):
            with pytest.raises(EncoderMismatchError, match="fingerprint 0000"):
                use()
        assert collection.add_tokens(TOKENS.name) == 1
        check(collection, {d.id: d for d in DOCUMENTS})


def test_another_factor_makes_tokens_again(old: Collection) -> None:
    old.add_tokens(TOKENS)
    assert old.add_tokens(pool_factor=1) == 0
    assert old.add_tokens(pool_factor=2) == 3
    check(old, STATE)
    kept = old.info().token_vectors
    assert kept is not None
    assert (kept.pool_factor, kept.codec) == (2, "residual4")
    assert old.add_tokens() == 0
    assert old.add_tokens(codec="int8") == 3, "which leaves the factor as it is"
    assert old.token_encoder.pool_factor == 2
    assert old.add_tokens("hashing:32") == 3
    assert (old.token_encoder.dim, old.token_encoder.pool_factor) == (32, 2)
    with pytest.raises(InputError, match="pools by 2, not by 3"):
        old.add_tokens(POOLED, pool_factor=3)
    with pytest.raises(ConfigError, match="got 0"):
        old.add_tokens(pool_factor=0)


def test_manifests_that_know_of_no_pooling_are_read(tmp_path: Path) -> None:
    filled(tmp_path / "kb", DOCUMENTS, TOKENS).close()
    edit_manifest(tmp_path / "kb", lambda content: content["tokens"].pop("pool_factor"))
    with Collection.open(tmp_path / "kb") as collection:
        assert collection.token_encoder.pool_factor == 1
        check(collection, {d.id: d for d in DOCUMENTS})
