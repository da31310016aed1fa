"""Token vectors in a collection: found as brute force finds them, whatever was added, deleted, upgraded or lost."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.collection.manifest import Manifest
from rag.encoders import TokenVectors, load_multi_vector
from rag.errors import CollectionError, EncoderMismatchError, InputError
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
    segments_of,
)

DOCUMENTS = [document(f"doc{i}", i) for i in range(12)]
QUERIES = ["doc3 line1", "common version2 kefin", "version7"]


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
