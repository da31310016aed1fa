"""Sign codes: what the bits are, and that scores made of them order documents, and stand beside exact ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from rag.index import merge_matches
from rag.index.files import read_sections
from rag.index.multivector import TokenStore
from tests.index.multivector.ragged import Ragged, ragged
from tests.index.multivector.samples import mixtures


class Content(NamedTuple):
    """What the file of a store holds."""

    mean: np.ndarray
    base: np.ndarray
    signs: np.ndarray
    numbers: dict[str, Any]


def content(store: TokenStore, path: Path) -> Content:
    store.save(path)
    file = read_sections(path)
    dim = store.dim
    codes = file.section("codes").reshape(store.tokens, -1)
    signs = np.unpackbits(codes, axis=1, count=dim, bitorder="little").astype(np.float64) * 2 - 1
    mean, base = (file.section(name).view(np.float32).astype(np.float64) for name in ("mean", "base"))
    return Content(mean, base.reshape(dim, dim), signs, file.meta["learned"])


@pytest.mark.parametrize("dim", [1, 17, 64, 100, 384])
def test_bits_and_scores_are_what_the_file_format_says(dim: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(dim)
    documents, queries = ragged(rng, [30, 1, 80, 5], dim), ragged(rng, [1, 16, 33], dim)
    queries = Ragged((queries.tokens * rng.uniform(0, 3, (50, 1))).astype(np.float32), queries.offsets)
    store = TokenStore(dim, "sign")
    store.add(np.arange(4), *documents)
    assert store.stats().bytes["codes"] == 116 * -(-dim // 8)

    held = content(store, tmp_path / "tokens")
    turned = (documents.tokens - held.mean) @ held.base.T
    assert ((held.signs > 0) == (turned > 0))[np.abs(turned) > 1e-5].all()

    lengths = np.linalg.norm(queries.tokens.astype(np.float64), axis=1, keepdims=True)
    unit = queries.tokens / lengths
    asked = (unit - held.mean) @ held.base.T
    norms = np.linalg.norm(asked, axis=1, keepdims=True)
    cosines = asked @ held.signs.T / norms / np.sqrt(dim)
    slope = held.numbers["slope"]
    line = slope * cosines + held.numbers["mean_slope"] * (unit @ held.mean)[:, None] + held.numbers["constant"]
    estimates = lengths * line
    best = np.maximum.reduceat(estimates, documents.offsets[:-1], axis=1)
    expected = np.add.reduceat(best, queries.offsets[:-1], axis=0)
    rounding = lengths * slope * np.abs(asked).max(axis=1, keepdims=True) / norms / 254 * np.sqrt(dim) + 1e-5
    found = store.maxsim(*queries, k=4)
    errors = np.abs(found.scores - np.take_along_axis(expected, found.ids, 1))
    assert (errors <= np.add.reduceat(rounding, queries.offsets[:-1], axis=0)).all()
    _, scores = store.matches(2, queries.sets[2])
    assert (np.abs(scores - estimates[17:, 31:111].max(axis=1)) <= rounding[17:, 0]).all()


def test_documents_are_found_by_a_bit_a_component() -> None:
    documents, queries = mixtures(np.random.default_rng(1), 300, 100, dim=128, noise=1.0)
    exact, store = TokenStore(128, "float32"), TokenStore(128, "sign")
    for one in (exact, store):
        one.add(np.arange(300), documents.tokens, documents.offsets)
    best = exact.maxsim(queries.tokens, queries.offsets, 1).ids
    assert (store.maxsim(queries.tokens, queries.offsets, 1).ids == best).mean() >= 0.95
    among = store.maxsim(queries.tokens, queries.offsets, 10).ids
    truth = exact.maxsim(queries.tokens, queries.offsets, 10).ids
    assert np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(among, truth, strict=True)]) >= 0.6


@pytest.mark.parametrize("dim", [64, 256])
def test_estimates_stand_beside_exact_scores(dim: int) -> None:
    documents, queries = mixtures(np.random.default_rng(2), 400, 60, dim=dim, noise=1.0)
    coded, exact, whole = TokenStore(dim, "sign"), TokenStore(dim, "float16"), TokenStore(dim, "float16")
    sets = [documents.of(i) for i in range(400)]
    whole.add(np.arange(400), documents.tokens, documents.offsets)
    for store, ids in ((coded, np.arange(0, 400, 2)), (exact, np.arange(1, 400, 2))):
        own = [sets[i] for i in ids]
        store.add(ids, np.concatenate(own), np.cumsum([0, *map(len, own)]))

    truth = whole.maxsim(queries.tokens, queries.offsets, 400)
    estimates = coded.maxsim(queries.tokens, queries.offsets, 200)
    by_id = np.take_along_axis(truth.scores, np.argsort(truth.ids, axis=1), 1)
    errors = estimates.scores - np.take_along_axis(by_id, estimates.ids, 1)
    assert abs(errors.mean()) < 0.1 * by_id.mean()
    assert errors.std() < by_id.std()

    # Neither kind of store crowds out the other one.
    merged = merge_matches([estimates, exact.maxsim(queries.tokens, queries.offsets, 200)], 20)
    share = np.mean(merged.ids % 2 == 0)
    assert share == pytest.approx(np.mean(truth.ids[:, :20] % 2 == 0), abs=0.15)


def test_the_length_of_a_query_token_is_its_weight() -> None:
    rng = np.random.default_rng(3)
    documents, query = ragged(rng, [40, 60, 30], 64), ragged(rng, [5], 64)
    store = TokenStore(64, "sign")
    store.add([0, 1, 2], *documents)
    weights = np.array([2, 1, 0, 0.5, 1], np.float32)
    for document in range(3):
        _, plain = store.matches(document, query.tokens)
        _, weighted = store.matches(document, query.tokens * weights[:, None])
        np.testing.assert_allclose(weighted, plain * weights, atol=1e-6)
    scaled = TokenStore(64, "sign")
    scaled.learn(documents.tokens)
    scaled.add([0, 1, 2], documents.tokens * rng.uniform(0.1, 10, (130, 1)), documents.offsets)
    assert (scaled.maxsim(*query, k=3).ids == store.maxsim(*query, k=3).ids).all()


def test_decoded_tokens_are_of_unit_length_and_near_what_was_added() -> None:
    rng = np.random.default_rng(4)
    # Few directions hold most, and the mean is not zero, as with the tokens of a transformer.
    spectrum = 1 / np.sqrt(1 + np.arange(128))
    tokens = (rng.standard_normal((6000, 128)) + 0.5) * spectrum
    tokens = (tokens / np.linalg.norm(tokens, axis=1, keepdims=True)).astype(np.float32)
    store = TokenStore(128, "sign")
    store.learn(tokens[:5000])
    store.add(np.arange(10), tokens[5000:], np.arange(0, 1001, 100))
    decoded, _ = store.vectors(np.arange(10))
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, atol=1e-5)
    cosines = np.einsum("td,td->t", decoded, tokens[5000:])
    # By the numbers that least squares would choose for each bit, given what was learned from.
    learned, _ = _signs_of(store, tokens[:5000])
    added, _ = _signs_of(store, tokens[5000:])
    mean = tokens[:5000].mean(axis=0)
    best = mean + added @ np.linalg.lstsq(learned, tokens[:5000] - mean, rcond=None)[0]
    best_cosines = np.einsum("td,td->t", best, tokens[5000:]) / np.linalg.norm(best, axis=1)
    assert cosines.mean() >= best_cosines.mean() - 0.01


def _signs_of(store: TokenStore, tokens: np.ndarray) -> tuple[np.ndarray, TokenStore]:
    """The signs of tokens in a store that has learned the same."""
    other = TokenStore.like(store)
    other.add([0], tokens, [0, len(tokens)])
    codes = np.concatenate(other._store.parts()["codes"]).reshape(len(tokens), -1)
    return np.unpackbits(codes, axis=1, count=store.dim, bitorder="little").astype(np.float32) * 2 - 1, other


def test_one_token_is_enough_to_learn_from() -> None:
    rng = np.random.default_rng(5)
    store = TokenStore(128, "sign")
    store.add([0], *ragged(rng, [1], 128))
    documents = ragged(rng, [40, 50], 128)
    store.add([1, 2], *documents)
    decoded, _ = store.vectors([1, 2])
    assert np.einsum("td,td->t", decoded, documents.tokens).mean() > 0.7
    assert store.maxsim(documents.tokens[:40], [0, 40], 1).ids.tolist() == [[1]]
    assert store.maxsim(documents.tokens[40:], [0, 50], 1).ids.tolist() == [[2]]
