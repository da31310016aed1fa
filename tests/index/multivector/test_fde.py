"""Fixed dimensional encodings: against the definition, in the limits where they are exact, and how well they rank."""

from __future__ import annotations

import json
import signal
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag import _native
from rag.errors import ConfigError, InputError
from rag.index import ScanIndex
from rag.index.multivector.fde import FixedDimensionalEncoding, drawn_matrices
from tests.index.multivector.samples import Floats, TokenSets, chamfer, first_found, mixtures, random_sets, unit


def reference(encoding: FixedDimensionalEncoding, sets: TokenSets, documents: bool) -> NDArray[np.float64]:
    """MUVERA, section 2, step by step."""
    form = encoding.describe()
    matrices = (form[name] for name in ("dim", "k_sim", "d_proj", "repetitions", "final_dim", "seed"))
    planes, signs, sketch = drawn_matrices(*matrices)
    buckets, encodings = 2 ** form["k_sim"], []
    for i in range(len(sets)):
        tokens, blocks = sets.of(i).astype(np.float64), []
        if documents:
            tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
        for r in range(form["repetitions"]):
            sides = tokens @ planes[r].T.astype(np.float64) > 0
            own = (sides * 2 ** np.arange(form["k_sim"])).sum(axis=1).astype(np.int64)
            for bucket in range(buckets):
                here = tokens[own == bucket]
                if len(here):
                    block = here.mean(axis=0) if documents else here.sum(axis=0)
                elif documents and form["fill_empty"]:
                    parting = [int(other ^ bucket).bit_count() for other in own]
                    block = tokens[int(np.argmin(parting))]
                else:
                    block = np.zeros(form["dim"])
                blocks.append(block if signs is None else signs[r] @ block / np.sqrt(form["d_proj"]))
        whole = np.concatenate(blocks)
        if sketch is not None:
            folded = np.zeros(form["final_dim"])
            np.add.at(folded, np.where(sketch < 0, ~sketch, sketch), np.where(sketch < 0, -whole, whole))
            whole = folded
        encodings.append(whole)
    return np.array(encodings)


# --- what an encoding is


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([1, 3, 16, 33, 64, 128]),
    k_sim=st.integers(0, 6),
    projected=st.sampled_from([1, 5, 8, 16, None]),
    repetitions=st.integers(1, 25),
    fill_empty=st.booleans(),
    final_dim=st.sampled_from([None, 1, 7, 100]),
    documents=st.booleans(),
)
def test_encodings_are_those_of_the_definition(
    seed: int,
    dim: int,
    k_sim: int,
    projected: int | None,
    repetitions: int,
    fill_empty: bool,
    final_dim: int | None,
    documents: bool,
) -> None:
    d_proj = dim if projected is None else min(projected, dim)
    encoding = FixedDimensionalEncoding(dim, k_sim, d_proj, repetitions, fill_empty, final_dim, seed)
    rng = np.random.default_rng(seed)
    sets = random_sets(rng, rng.integers(1, 130, 4), dim)
    encode = encoding.encode_documents if documents else encoding.encode_queries
    found = encode(*sets)
    assert found.dtype == np.float32
    assert found.shape == (4, encoding.size)
    truth = reference(encoding, sets, documents)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-5 * max(1.0, np.abs(truth).max()))


@pytest.mark.parametrize(("k_sim", "lengths"), [(12, [70, 3]), (3, [20_000, 1])])
def test_many_planes_and_long_sets(k_sim: int, lengths: list[int]) -> None:
    encoding = FixedDimensionalEncoding(24, k_sim, 2, 2)
    sets = random_sets(np.random.default_rng(0), lengths, 24)
    np.testing.assert_allclose(encoding.encode_documents(*sets), reference(encoding, sets, True), atol=1e-5)


def test_the_same_to_the_bit_with_every_instruction_set_and_number_of_threads() -> None:
    rng = np.random.default_rng(1)
    sets = random_sets(rng, rng.integers(1, 200, 60), 100)
    encoding = FixedDimensionalEncoding(100, 5, 12, 20, final_dim=999)
    before, found = _native.isa(), []
    try:
        for isa in _native.isas():
            _native.set_isa(isa)
            for threads in (1, 3):
                found.append(encoding.encode_documents(*sets, threads=threads))
                found.append(
                    np.concatenate([encoding.encode_documents(sets.of(i), [0, len(sets.of(i))]) for i in range(60)])
                )
    finally:
        _native.set_isa(before)
    assert all(np.array_equal(one, found[0]) for one in found)


def test_a_token_on_a_plane_lies_on_its_dark_side() -> None:
    planes = drawn_matrices(2, 1, 2, 1, None, 42)[0][0, 0].astype(np.float64)
    on = unit(np.array([[-planes[1], planes[0]]]))  # but for rounding
    encoding = FixedDimensionalEncoding(2, 1, 2, 1)
    sets = TokenSets(on, np.array([0, 1]))
    np.testing.assert_array_equal(encoding.encode_queries(*sets), reference(encoding, sets, False).astype(np.float32))


def test_random_numbers_of_a_seed_stay_what_they_are() -> None:
    planes, signs, sketch = drawn_matrices(128, 4, 16, 20, 5000, 42)
    assert signs is not None
    assert sketch is not None
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(planes.mean()) < 0.03
    assert abs(planes.std() - 1) < 0.02
    assert abs(signs.mean()) < 0.02
    assert abs((sketch < 0).mean() - 0.5) < 0.03
    places = np.where(sketch < 0, ~sketch, sketch)
    assert places.min() >= 0
    assert places.max() < 5000
    assert np.bincount(places, minlength=5000).max() < 12
    # Saved indexes hold encodings made with these.
    assert (planes[0, 0, :3] * 65536).tolist() == [-122857, 12818, -22053]
    assert signs[0, 0, :8].tolist() == [-1, -1, 1, 1, 1, -1, 1, 1]
    assert sketch[:4].tolist() == [-466, -1840, 2578, 1053]


def test_a_signal_ends_a_long_encoding_within_a_document() -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    sets = random_sets(np.random.default_rng(0), [120_000], 64)
    encoding = FixedDimensionalEncoding(64, 6, 64, 400)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        start = time.process_time()
        with pytest.raises(Interrupted):
            encoding.encode_documents(*sets, threads=1)
        assert time.process_time() - start < 0.6
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_more_repetitions_go_on_where_fewer_ended() -> None:
    sets = random_sets(np.random.default_rng(0), [7, 30], 32)
    few, many = (FixedDimensionalEncoding(32, 3, 8, r).encode_documents(*sets) for r in (4, 9))
    np.testing.assert_array_equal(many[:, : few.shape[1]], few)


def test_the_length_of_a_token_is_its_weight_in_queries_alone() -> None:
    sets = random_sets(np.random.default_rng(0), [9, 30], 32)
    weights = np.random.default_rng(1).choice([0, 0.25, 1, 8], (39, 1)).astype(np.float32)
    weighted = TokenSets(sets.tokens * weights, sets.offsets)
    encoding = FixedDimensionalEncoding(32, 3, 8, 10)
    found = encoding.encode_queries(*weighted)
    np.testing.assert_allclose(found, reference(encoding, weighted, False), atol=1e-4)
    doubled = encoding.encode_documents(8 * sets.tokens, sets.offsets)
    np.testing.assert_allclose(doubled, encoding.encode_documents(*sets), atol=1e-6)


# --- where encodings are exact (brief of the paper, section 9.1)


def test_one_bucket_holds_sum_and_mean() -> None:
    rng = np.random.default_rng(2)
    queries, documents = random_sets(rng, [5, 9, 1], 48), random_sets(rng, [30, 2, 1, 8], 48)
    encoding = FixedDimensionalEncoding(48, 0, 48, 1)
    found = encoding.encode_queries(*queries) @ encoding.encode_documents(*documents).T
    sums = np.array([queries.of(i).sum(axis=0, dtype=np.float64) for i in range(3)])
    means = np.array([documents.of(i).mean(axis=0, dtype=np.float64) for i in range(4)])
    np.testing.assert_allclose(found, sums @ means.T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("k_sim", [1, 4, 7])
def test_documents_of_one_token_are_scored_exactly(k_sim: int) -> None:
    rng = np.random.default_rng(3)
    queries, documents = random_sets(rng, [12, 32], 40), random_sets(rng, [1] * 20, 40)
    encoding = FixedDimensionalEncoding(40, k_sim, 40, 6)
    found = encoding.encode_queries(*queries).astype(np.float64) @ encoding.encode_documents(*documents).T
    np.testing.assert_allclose(found / 6, chamfer(queries, documents), rtol=0, atol=2e-5)


# --- how well encodings rank (9.2, 9.3, 9.6, 9.7)


@pytest.fixture(scope="module")
def long() -> tuple[TokenSets, TokenSets, NDArray[np.float64]]:
    documents, queries = mixtures(np.random.default_rng(4), 1000, 250)
    return documents, queries, chamfer(queries, documents)


@pytest.fixture(scope="module")
def short() -> tuple[TokenSets, TokenSets, NDArray[np.float64]]:
    documents, queries = mixtures(np.random.default_rng(5), 1000, 250, (5, 15))
    return documents, queries, chamfer(queries, documents)


def encoded(sample: tuple[TokenSets, TokenSets, NDArray[np.float64]], *form: Any, **rest: Any) -> tuple[Floats, Floats]:
    """Queries and documents."""
    encoding = FixedDimensionalEncoding(64, *form, **rest)
    return encoding.encode_queries(*sample[1]), encoding.encode_documents(*sample[0])


def shares(sample: tuple[TokenSets, TokenSets, NDArray[np.float64]], queries: Floats, documents: Floats) -> list[float]:
    return [first_found(queries @ documents.T, sample[2], depth) for depth in (1, 10, 50)]


def test_larger_encodings_find_more(long: tuple[TokenSets, TokenSets, NDArray[np.float64]]) -> None:
    ladder = [(3, 8, 5), (3, 8, 20), (5, 16, 20), (5, 64, 20)]
    found = np.array([shares(long, *encoded(long, *form)) for form in ladder])
    assert all((more >= less).all() and (more > less).any() for less, more in pairwise(found)), found
    assert found[0, 1] < 0.5
    assert found[-1, 1] > 0.9
    folded = np.array([shares(long, *encoded(long, 5, 64, final_dim=size)) for size in (320, 1280, 5120)])
    assert all((more >= less).all() and (more > less).any() for less, more in pairwise(folded)), folded


def test_documents_must_be_averaged_and_seeds_must_be_equal(
    long: tuple[TokenSets, TokenSets, NDArray[np.float64]],
) -> None:
    queries, documents = encoded(long, 4, 8)
    right = shares(long, queries, documents)
    summed = shares(long, queries, FixedDimensionalEncoding(64, 4, 8).encode_queries(*long[0]))
    other = shares(long, queries, encoded(long, 4, 8, seed=43)[1])
    assert summed[1] < 0.6 * right[1]
    assert other[1] < 0.05
    assert other[2] < 0.15


def test_filling_helps_short_documents_with_many_buckets(
    short: tuple[TokenSets, TokenSets, NDArray[np.float64]],
) -> None:
    filled, empty = (shares(short, *encoded(short, 6, 8, fill_empty=fill)) for fill in (True, False))
    assert filled[0] > empty[0] + 0.1
    assert filled[1] > empty[1] + 0.1


def test_product_codes_lose_little_of_it() -> None:
    documents, queries = mixtures(np.random.default_rng(7), 1000, 500, noise=1.5)
    best = chamfer(queries, documents).argmax(axis=1)
    encoding = FixedDimensionalEncoding(64, 4, 8)
    asked, vectors = encoding.encode_queries(*queries), encoding.encode_documents(*documents)
    index = ScanIndex(encoding.size, "ip", "pq", finer=False)
    index.add(np.arange(len(vectors)), vectors)
    assert index.stats().bytes["codes"] * 32 == vectors.nbytes
    assert sum(index.stats().bytes.values()) < vectors.nbytes / 32 + 10 * len(vectors)  # ids, and no finer copy
    exact = np.argsort(-(asked @ vectors.T), axis=1)
    for depth in (10, 100):
        found = index.search(asked, depth).ids
        share, whole = ((ids == best[:, None]).any(axis=1).mean() for ids in (found, exact[:, :depth]))
        assert share >= whole - 0.02


def test_seeds_differ_little() -> None:
    documents, queries = mixtures(np.random.default_rng(6), 400, 1000, noise=2.0)
    truth = chamfer(queries, documents)
    shares = []
    for seed in range(10):
        encoding = FixedDimensionalEncoding(64, 4, 8, seed=seed)
        scores = encoding.encode_queries(*queries) @ encoding.encode_documents(*documents).T
        shares.append(first_found(scores, truth, 100))
    assert 0.9 < np.mean(shares) < 1
    assert np.std(shares) <= 0.005


# --- manifests


def test_a_description_makes_the_same_encoding() -> None:
    encoding = FixedDimensionalEncoding(32, 3, 8, 5, fill_empty=False, final_dim=100, seed=7)
    description = json.loads(json.dumps(encoding.describe()))
    again = FixedDimensionalEncoding.from_description(description)
    assert again == encoding
    assert hash(again) == hash(encoding)
    assert again != FixedDimensionalEncoding(32, 3, 8, 5, fill_empty=False, final_dim=100, seed=8)
    sets = random_sets(np.random.default_rng(0), [4, 5], 32)
    np.testing.assert_array_equal(again.encode_documents(*sets), encoding.encode_documents(*sets))
    assert repr(encoding).startswith("FixedDimensionalEncoding(dim=32, k_sim=3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 8}, "checksum"),
        ({"dim": 33}, "checksum"),
        ({"crc32c": 0}, "checksum"),
        ({"crc32c": None}, "checksum"),
        ({"k_sim": "3"}, "k_sim is '3'"),
        ({"more": 1}, "'more'"),
        ({"repetitions": 0}, "repetitions is 0"),
    ],
)
def test_a_description_that_does_not_match_is_refused(change: dict[str, Any], message: str) -> None:
    description = FixedDimensionalEncoding(32, 3, 8, 5, seed=7).describe() | change
    with pytest.raises(ConfigError, match=message):
        FixedDimensionalEncoding.from_description(description)
    with pytest.raises(ConfigError):
        FixedDimensionalEncoding.from_description({})


# --- wrong input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim is 0"),
        ({"dim": 8}, "d_proj is 16"),
        ({"k_sim": 13}, "k_sim is 13"),
        ({"k_sim": -1}, "k_sim is -1"),
        ({"k_sim": 2.0}, "k_sim is 2.0"),
        ({"d_proj": 0}, "d_proj is 0"),
        ({"repetitions": True}, "repetitions is True"),
        ({"fill_empty": 1}, "fill_empty is 1"),
        ({"final_dim": 0}, "final_dim is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"k_sim": 12, "d_proj": 128, "repetitions": 1000}, "numbers"),
    ],
)
def test_impossible_parameters_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FixedDimensionalEncoding(**{"dim": 128, **arguments})


def _changed(sets: TokenSets, row: int, value: Any) -> Floats:
    tokens = sets.tokens.copy()
    tokens[row] = value
    return tokens


def test_wrong_tokens_and_offsets_are_refused() -> None:
    sets = random_sets(np.random.default_rng(0), [3, 4, 5], 16)
    encoding = FixedDimensionalEncoding(16, 2, 8, 2)
    cases: list[tuple[Any, Any, str]] = [
        (sets.tokens, [0, 3, 3, 12], "set 1 has no tokens"),
        (sets.tokens, [0, 3, 2, 12], "offsets fall from 3 to 2"),
        (sets.tokens, [0, 3, 7], "offsets do not lead from 0 to 12"),
        (sets.tokens, [1, 3, 12], "offsets do not lead"),
        (sets.tokens, [], "offsets do not lead"),
        (sets.tokens, [0.0, 12.0], "offsets are float64"),
        (sets.tokens[:, :15], sets.offsets, r"tokens have shape \(12, 15\)"),
        (_changed(sets, 5, np.nan), sets.offsets, r"tokens\[5\] holds nan"),
        (_changed(sets, 5, np.inf), sets.offsets, r"tokens\[5\] holds inf"),
        (_changed(sets, 11, 1e30), sets.offsets, r"tokens\[11\] is longer"),
    ]
    for tokens, offsets, message in cases:
        for encode in (encoding.encode_queries, encoding.encode_documents):
            with pytest.raises(InputError, match=message):
                encode(tokens, offsets)
    with pytest.raises(InputError, match=r"tokens\[11\] is all zeros"):
        encoding.encode_documents(_changed(sets, 11, 0), sets.offsets)
    assert encoding.encode_queries(sets.tokens[:0], np.zeros(1, np.int64)).shape == (0, 64)
