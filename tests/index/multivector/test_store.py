"""The token store: exact late interaction in every codec, and what it refuses."""

from __future__ import annotations

import pickle
import signal
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag import _native
from rag.errors import InputError, NotFoundError
from rag.index import IdFilter
from rag.index.multivector import TOKEN_CODECS, TokenCodec, TokenStore
from tests.index.multivector.ragged import Ragged, brute_force, ragged, rounded

EXACT = [codec for codec in TOKEN_CODECS if codec != "sign"]
"""Whose scores are those of the stored numbers; tests of the other one are in test_sign.py."""

IDS = 3 * np.arange(60)[::-1] + 5  # neither from 0 on nor ascending


def lengths(rng: np.random.Generator, n: int, most: int = 40) -> list[int]:
    return list(rng.integers(1, most, n))


def filled(codec: TokenCodec, dim: int = 64, seed: int = 0) -> tuple[TokenStore, Ragged, Ragged]:
    """A store of 60 documents, the documents as it holds them, and queries."""
    rng = np.random.default_rng(seed)
    documents, queries = ragged(rng, lengths(rng, 60), dim), ragged(rng, [1, 7, 16, 32, 33, 70], dim)
    store = TokenStore(dim, codec)
    store.add(IDS, *documents)
    return store, Ragged(*store.vectors(IDS)), queries


def allowed_error(codec: TokenCodec, queries: Ragged) -> np.ndarray:
    exact = codec.startswith("float")
    return np.full((len(queries.offsets) - 1, 1), 1e-4) if exact else rounded(queries)[:, None]


@pytest.mark.parametrize("dim", [1, 17, 64, 128, 384, 1024])
@pytest.mark.parametrize("codec", EXACT)
def test_scores_are_those_of_the_stored_tokens_for_every_document(codec: TokenCodec, dim: int) -> None:
    store, stored, queries = filled(codec, dim)
    expected = brute_force(queries, stored)
    found = store.maxsim(*queries, k=60)
    assert (np.sort(found.ids) == np.sort(IDS)).all()
    places = (177 + 5 - found.ids) // 3
    assert (np.abs(found.scores - np.take_along_axis(expected, places, 1)) <= allowed_error(codec, queries)).all()
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize(
    ("codec", "least"),
    [("float32", 1), ("float16", 1), ("int8", 0.9999), ("residual4", 0.99), ("residual2", 0.93)],
)
def test_stored_tokens_are_near_what_was_added(codec: TokenCodec, least: float) -> None:
    rng = np.random.default_rng(3)
    documents = ragged(rng, lengths(rng, 200), 128)
    store = TokenStore(128, codec)
    store.add(np.arange(200), *documents)
    tokens, offsets = store.vectors(np.arange(200))
    assert (offsets == documents.offsets).all()
    cosines = np.einsum("td,td->t", tokens, documents.tokens) / np.linalg.norm(tokens, axis=1)
    assert cosines.mean() >= least - 1e-6
    # Codes of few bits are right on average, though no single one is: nothing is drawn towards anything.
    assert np.einsum("td,td->t", tokens, documents.tokens).mean() == pytest.approx(1, abs=0.02)


def test_float16_agrees_with_brute_force_on_the_given_tokens() -> None:
    rng = np.random.default_rng(4)
    for dim in (64, 96, 256, 768):
        documents, queries = ragged(rng, lengths(rng, 30), dim), ragged(rng, [32, 5], dim)
        store = TokenStore(dim, "float16")
        store.add(np.arange(30), *documents)
        found = store.maxsim(*queries, k=30)
        expected = np.take_along_axis(brute_force(queries, documents), found.ids, 1)
        np.testing.assert_allclose(found.scores, expected, atol=1e-3 * np.sqrt(32))


@pytest.mark.parametrize(
    ("codec", "bytes_a_token"), [("float16", 768), ("residual4", 194), ("residual2", 98), ("sign", 48)]
)
def test_bytes_a_token(codec: TokenCodec, bytes_a_token: int) -> None:
    rng = np.random.default_rng(5)
    store = TokenStore(384, codec)
    store.learn(ragged(rng, [9000], 384).tokens)  # 256 centroids
    store.add([1, 2], *ragged(rng, [70, 30], 384))
    assert store.stats().bytes["codes"] == 100 * bytes_a_token
    assert (store.stats().documents, store.stats().tokens, store.tokens, len(store)) == (2, 100, 100, 2)


@pytest.mark.parametrize("codec", TOKEN_CODECS)
def test_neither_threads_nor_other_queries_nor_candidates_change_a_score(codec: TokenCodec) -> None:
    store, _, queries = filled(codec)
    found = store.maxsim(*queries, k=7)
    for threads in (1, 2, 5):
        again = store.maxsim(*queries, k=7, threads=threads)
        assert (again.ids == found.ids).all()
        assert (again.scores == found.scores).all()
    for i, query in enumerate(queries.sets):
        alone = store.maxsim(query, [0, len(query)], 7)
        assert (alone.ids[0] == found.ids[i]).all()
        assert (alone.scores[0] == found.scores[i]).all()
    among = store.maxsim(*queries, k=7, candidates=np.tile(IDS, (6, 1)))
    assert (among.ids == found.ids).all()
    assert (among.scores == found.scores).all()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_candidates_filters_and_deletions_as_by_brute_force(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dim, n = data.draw(st.sampled_from([3, 16, 40])), data.draw(st.integers(1, 30))
    documents = ragged(rng, lengths(rng, n, 300 if data.draw(st.booleans()) else 6), dim)
    queries = ragged(rng, data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4)), dim)
    ids = rng.permutation(3 * n)[:n]
    store = TokenStore(dim, "float32")
    half = n // 2
    cut = documents.offsets[half]
    store.add(ids[:half], documents.tokens[:cut], documents.offsets[: half + 1])
    store.add(ids[half:], documents.tokens[cut:], documents.offsets[half:] - cut)
    allowed = np.ones(n, bool)
    if data.draw(st.booleans()):
        gone = rng.random(n) < 0.4
        assert store.delete(np.concatenate([ids[gone], [10**6]])) == gone.sum()
        allowed &= ~gone
        assert (len(store), store.tokens) == (allowed.sum(), np.diff(documents.offsets)[allowed].sum())
        if data.draw(st.booleans()):
            store.compact()
            assert store.stats().tombstones == 0
    filter = np.sort(rng.permutation(3 * n)[: 2 * n]) if data.draw(st.booleans()) else None
    candidates = rng.integers(-1, 3 * n, (len(queries.offsets) - 1, 2 * n)) if data.draw(st.booleans()) else None
    k = data.draw(st.integers(1, n + 3))
    found = store.maxsim(*queries, k, candidates=candidates, filter=None if filter is None else IdFilter(filter))
    scores = brute_force(queries, documents)
    for q in range(len(scores)):
        may = allowed.copy()
        if filter is not None:
            may &= np.isin(ids, filter)
        if candidates is not None:
            may &= np.isin(ids, candidates[q])
        there = np.flatnonzero(may)
        best = there[np.lexsort((ids[there], -scores[q][there]))][:k]
        assert (found.ids[q][len(best) :] == -1).all()
        assert np.isneginf(found.scores[q][len(best) :]).all()
        np.testing.assert_allclose(found.scores[q][: len(best)], scores[q][best], atol=1e-4)
        got = found.ids[q][: len(best)]
        assert len(set(got.tolist())) == len(best)
        by_id = dict(zip(ids.tolist(), scores[q], strict=True))
        assert set(got.tolist()) <= set(ids[there].tolist())
        np.testing.assert_allclose([by_id[i] for i in got.tolist()], found.scores[q][: len(best)], atol=1e-4)


def test_ties_go_to_the_smaller_id() -> None:
    rng = np.random.default_rng(6)
    one = ragged(rng, [5], 16)
    store = TokenStore(16)
    store.add([9, 4, 7], np.tile(one.tokens, (3, 1)), [0, 5, 10, 15])
    assert store.maxsim(*ragged(rng, [3], 16), k=2).ids.tolist() == [[4, 7]]


def test_the_length_of_a_query_token_is_its_weight_and_that_of_a_documents_token_none() -> None:
    rng = np.random.default_rng(7)
    documents, query = ragged(rng, [4, 6, 3], 24), ragged(rng, [5], 24)
    plain, scaled = TokenStore(24, "float32"), TokenStore(24, "float32")
    plain.add([0, 1, 2], *documents)
    scaled.add([0, 1, 2], documents.tokens * rng.uniform(0.1, 10, (13, 1)), documents.offsets)
    weights = np.array([2, 1, 0, 0.5, 1], np.float32)[:, None]
    weighted = query.tokens * weights
    expected = np.array([[(weighted @ document.T).max(1).sum() for document in documents.sets]])
    for store in (plain, scaled):
        found = store.maxsim(weighted, [0, 5], 3)
        np.testing.assert_allclose(found.scores, np.take_along_axis(expected, found.ids, 1), atol=1e-5)


@pytest.mark.parametrize("codec", EXACT)
def test_matches_say_which_token_fits_best(codec: TokenCodec) -> None:
    store, stored, queries = filled(codec)
    for place in (0, 17, 59):
        query, document = queries.sets[3], stored.sets[place]
        best, scores = store.matches(int(IDS[place]), query)
        products = query @ document.T
        error = allowed_error(codec, Ragged(query, np.arange(33)))[:, 0]
        assert (np.abs(products.max(1) - scores) <= error).all()
        assert (products.max(1) - products[np.arange(32), best] <= 2 * error).all()
        total = store.maxsim(query, [0, 32], 1, candidates=[[IDS[place]]]).scores[0, 0]
        assert scores.astype(np.float64).sum() == pytest.approx(total, abs=1e-5)


def test_a_document_of_100_000_tokens() -> None:
    rng = np.random.default_rng(8)
    documents, query = ragged(rng, [3, 100_000, 5], 32), ragged(rng, [8], 32)
    store = TokenStore(32)
    store.add([1, 2, 3], *documents)
    found = store.maxsim(*query, k=3)
    assert found.ids[0, 0] == 2
    np.testing.assert_allclose(found.scores, -np.sort(-brute_force(query, documents)), atol=5e-3)
    assert store.matches(2, query.tokens).positions.max() > 10_000


@pytest.mark.parametrize("codec", ["float16", "residual2", "sign"])
def test_learning_first_is_the_same_as_learning_from_what_is_added(codec: TokenCodec) -> None:
    store, stored, _ = filled(codec)
    rng = np.random.default_rng(0)
    documents = ragged(rng, lengths(rng, 60), 64)
    learned = TokenStore(64, codec)
    learned.learn(documents.tokens)
    for i, document in enumerate(documents.sets):
        learned.add(IDS[i : i + 1], document, [0, len(document)])
    assert (learned.vectors(IDS)[0] == stored.tokens).all()
    with pytest.raises(InputError, match="holds tokens already"):
        store.learn(documents.tokens)


@pytest.mark.parametrize("codec", ["residual2", "residual4"])
def test_one_token_is_enough_to_learn_from(codec: TokenCodec) -> None:
    rng = np.random.default_rng(9)
    store = TokenStore(32, codec)
    store.add([0], *ragged(rng, [1], 32))
    documents = ragged(rng, [40, 50], 32)
    store.add([1, 2], *documents)
    tokens, _ = store.vectors([1, 2])
    assert np.einsum("td,td->t", tokens, documents.tokens).mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("codec", TOKEN_CODECS)
def test_documents_of_a_store_that_keeps_tokens_alike_are_copied_as_they_are(codec: TokenCodec) -> None:
    store, _, queries = filled(codec)
    store.delete(IDS[7:9])
    copy = TokenStore.like(store)
    assert (copy.codec, copy.dim, len(copy)) == (codec, 64, 0)
    copy.add([2], *ragged(np.random.default_rng(1), [9], 64))
    chosen = np.concatenate([IDS[20:], IDS[:5]])
    copy.append(store, chosen[:30])
    copy.append(store, chosen[30:])
    assert copy.ids.tolist() == [2, *chosen.tolist()]
    for own, other in zip(copy.vectors(chosen), store.vectors(chosen), strict=True):
        assert (own == other).all()
    expected, found = (one.maxsim(*queries, k=10, filter=np.sort(chosen)) for one in (store, copy))
    assert (found.ids == expected.ids).all()
    assert (found.scores == expected.scores).all()
    for wrong, message in (([1], "id 1 is not in the store"), (IDS[7:8], "is not in the store"), ([IDS[0]], "there")):
        with pytest.raises((NotFoundError, InputError), match=message):
            copy.append(store, np.array([IDS[10], *wrong]))
        assert len(copy) == 1 + len(chosen)


@pytest.mark.parametrize(("codec", "least"), [("int8", 0.999), ("residual4", 0.95), ("residual2", 0.8), ("sign", 0.6)])
def test_documents_of_a_store_that_keeps_tokens_otherwise_are_coded_anew(codec: TokenCodec, least: float) -> None:
    store, stored, _ = filled(codec)
    for other in (TokenStore(64, "float16"), TokenStore(64, codec)):
        other.add([2], *ragged(np.random.default_rng(1), [500], 64))
        other.append(store, IDS)
        tokens, offsets = other.vectors(IDS)
        assert (offsets == stored.offsets).all()
        lengths = np.linalg.norm(tokens, axis=1) * np.linalg.norm(stored.tokens, axis=1)
        assert (np.einsum("td,td->t", tokens, stored.tokens) / lengths).mean() > least
    with pytest.raises(InputError, match=r"\(1, 32\)|expected \(n, 32\)"):
        TokenStore(32, codec).append(store, IDS)


UNIT = np.eye(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("ids", "tokens", "offsets", "message"),
    [
        ([1], UNIT[:, :3], [0, 4], r"tokens have shape \(4, 3\), expected \(n, 4\)"),
        ([1], UNIT[0], [0, 1], r"tokens have shape \(4,\)"),
        ([1], np.where(UNIT > 0, np.nan, UNIT), [0, 4], r"tokens\[0\] holds nan at position 0"),
        ([1], np.where(UNIT > 0, np.inf, UNIT), [0, 4], r"tokens\[0\] holds inf"),
        ([1], UNIT * [[1], [1], [0], [1]], [0, 4], r"tokens\[2\] is all zeros"),
        ([1, 2], UNIT, [0, 4], "2 offsets for 2 documents"),
        ([1, 2], UNIT, [0, 4, 4], r"document 1 \(id 2\) has no tokens"),
        ([1, 2], UNIT, [0, 5, 4], r"document 1 \(id 2\) ends at token 4, before it begins, at 5"),
        ([1, 2], UNIT, [0, 2, 3], "offsets go from 0 to 3.*the number of tokens, 4"),
        ([1, 2], UNIT, [1, 2, 4], "offsets go from 1 to 4"),
        ([], UNIT, [0], "offsets go from 0 to 0"),
        ([1, 1], UNIT, [0, 2, 4], "id 1 is given twice"),
        ([7, 1], UNIT, [0, 2, 4], "id 7 is there already"),
        ([-1], UNIT, [0, 4], "id -1 is negative"),
    ],
)
@pytest.mark.parametrize("codec", ["float16", "residual2"])
def test_what_does_not_fit_is_refused_and_nothing_added(
    codec: TokenCodec, ids: list[int], tokens: np.ndarray, offsets: list[int], message: str
) -> None:
    store = TokenStore(4, codec)
    store.add([7], UNIT, [0, 4])
    with pytest.raises(InputError, match=message):
        store.add(ids, tokens, offsets)
    assert (len(store), store.tokens) == (1, 4)
    store.add([8], UNIT[:2], [0, 2])
    assert store.vectors([8])[1].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("tokens", "offsets", "candidates", "message"),
    [
        (UNIT[:, :2], [0, 4], None, r"query tokens have shape \(4, 2\)"),
        (UNIT * np.nan, [0, 4], None, r"query tokens\[0\] holds nan"),
        (UNIT, [0, 0, 4], None, "query 0 has no tokens"),
        (UNIT, [0, 5, 4], None, "query 1 ends before it begins"),
        (UNIT, [0, 3], None, "query offsets go from 0 to 3.*the number of tokens, 4"),
        (UNIT, [], None, "query offsets are empty"),
        (UNIT, [0, 4], [[1], [2]], r"expected int64 of shape \(1, w\)"),
        (UNIT, [0, 4], [[0.5]], "candidates are float64"),
    ],
)
def test_queries_that_do_not_fit_are_refused(
    tokens: np.ndarray, offsets: list[int], candidates: list[list[float]] | None, message: str
) -> None:
    store = TokenStore(4)
    store.add([7], UNIT, [0, 4])
    with pytest.raises(InputError, match=message):
        store.maxsim(tokens, offsets, 1, candidates=candidates)


def test_other_mistakes() -> None:
    store = TokenStore(4)
    with pytest.raises(InputError, match="there is no token codec 'residual3'.*residual2"):
        TokenStore(4, "residual3")  # type: ignore[arg-type]
    for dim in (0, 70_000, 1.5):
        with pytest.raises(InputError, match="dim is"):
            TokenStore(dim)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="id 3 is not in the store"):
        store.vectors([3])
    with pytest.raises(NotFoundError, match="id 3 is not in the store"):
        store.matches(3, UNIT)
    with pytest.raises(InputError, match="to learn from"):
        store.learn(UNIT[:0])
    with pytest.raises(InputError, match="k is 0"):
        store.maxsim(UNIT, [0, 4], 0)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(store)
    assert repr(store) == "TokenStore(dim=4, codec='float16', documents=0, tokens=0)"


def test_an_empty_store_and_no_queries() -> None:
    store = TokenStore(4, "residual2")
    found = store.maxsim(UNIT, [0, 4], 2)
    assert found.ids.tolist() == [[-1, -1]]
    assert store.maxsim(UNIT[:0], [0], 2).ids.shape == (0, 2)
    store.add([], UNIT[:0], [0])
    store.compact()
    assert len(store) == 0


def test_instruction_sets_agree() -> None:
    best = _native.isa()
    for codec in TOKEN_CODECS:
        store, _, queries = filled(codec, 96)
        expected = store.maxsim(*queries, k=60)
        by_id = [dict(zip(*row, strict=True)) for row in zip(expected.ids.tolist(), expected.scores, strict=True)]
        try:
            for isa in _native.isas():
                _native.set_isa(isa)
                found = store.maxsim(*queries, k=60)
                for q, (ids, scores) in enumerate(zip(found.ids.tolist(), found.scores, strict=True)):
                    np.testing.assert_allclose(scores, [by_id[q][i] for i in ids], atol=2e-4)
        finally:
            _native.set_isa(best)


def test_searches_go_on_beside_an_add() -> None:
    rng = np.random.default_rng(10)
    store, query = TokenStore(32), ragged(rng, [8], 32)
    failures: list[BaseException] = []

    def search() -> None:
        try:
            while len(store) < 50:
                found = store.maxsim(*query, k=50)
                there = found.ids[0][found.ids[0] >= 0]
                assert len(set(there.tolist())) == len(there)
        except BaseException as error:
            failures.append(error)

    searchers = [threading.Thread(target=search) for _ in range(2)]
    for searcher in searchers:
        searcher.start()
    for i in range(50):
        store.add([i], *ragged(rng, [40], 32))
    for searcher in searchers:
        searcher.join()
    assert not failures


def test_ctrl_c_stops_a_search_soon() -> None:
    rng = np.random.default_rng(11)
    store, queries = TokenStore(256), ragged(rng, [32] * 3000, 256)
    store.add([0, 1], *ragged(rng, [100_000, 50_000], 256))
    threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        store.maxsim(*queries, k=1, threads=1)
    assert time.monotonic() - start < 5  # all of it takes minutes
