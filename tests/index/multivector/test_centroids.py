"""Documents scored by the centroids of their tokens: against the definition, and what is found by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag.errors import DamagedFileError, InputError
from rag.index.files import read_sections, write_sections
from rag.index.multivector import MultiVectorIndex
from rag.index.multivector.candidates import narrowed
from rag.index.multivector.centroids import CentroidIndex, learn_centroids
from rag.index.multivector.kmeans import k_means
from rag.index.protocol import Matches
from tests.index.multivector.samples import Floats, TokenSets, chamfer, mixtures, random_sets, unit

DIM = 24


def exact_halves(rows: Floats) -> Floats:
    return rows.astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def clear() -> tuple[Floats, TokenSets, TokenSets]:
    """Centroids, and documents whose tokens lie so near to them that there is no doubt which is nearest."""
    rng = np.random.default_rng(0)
    centroids = exact_halves(unit(rng.normal(size=(300, DIM))))
    documents = random_sets(rng, rng.integers(1, 40, 200), DIM)
    tokens = unit(centroids[rng.integers(0, 300, len(documents.tokens))] + 0.02 * rng.normal(size=(1, DIM)))
    return centroids, TokenSets(tokens, documents.offsets), random_sets(rng, [1, 15, 16, 17, 63, 64, 65, 150], DIM)


def by_definition(centroids: Floats, documents: TokenSets, queries: TokenSets) -> np.ndarray:
    nearest = np.argmin(((documents.tokens[:, None] - centroids[None]) ** 2).sum(-1), axis=1)
    return chamfer(queries, TokenSets(centroids[nearest], documents.offsets))


def rounding(queries: TokenSets) -> np.ndarray:
    """A byte for scores between -1 and 1, and 8 bits for each number of a query and a centroid."""
    return 0.02 * np.diff(queries.offsets)[:, None]


def test_scores_are_maxsim_with_the_centroids(clear: tuple[Floats, TokenSets, TokenSets]) -> None:
    centroids, documents, queries = clear
    index = CentroidIndex(centroids)
    lengths = np.random.default_rng(1).uniform(0.1, 9, (len(documents.tokens), 1)).astype(np.float32)
    index.add(np.arange(200) * 3, documents.tokens * lengths, documents.offsets)  # tokens of any length
    asked = np.tile(np.append(np.arange(200) * 3, [-1, 1]), (len(queries), 1))
    found = index.scores(*queries, asked)
    assert np.isneginf(found[:, 200:]).all()
    assert (np.abs(found[:, :200] - by_definition(centroids, documents, queries)) < rounding(queries)).all()
    np.testing.assert_array_equal(index.scores(*queries, asked, threads=1), found)
    for i in range(len(queries)):  # on its own as with others
        alone = index.scores(queries.of(i), np.array([0, len(queries.of(i))]), asked[i : i + 1])
        np.testing.assert_array_equal(alone[0], found[i])


def test_weights_of_query_tokens_count(clear: tuple[Floats, TokenSets, TokenSets]) -> None:
    centroids, documents, queries = clear
    index = CentroidIndex(centroids)
    index.add(np.arange(200), *documents)
    weighted = TokenSets((queries.tokens * np.float32(2.5)), queries.offsets)
    everything = np.tile(np.arange(200), (len(queries), 1))
    one, other = index.scores(*queries, everything), index.scores(*weighted, everything)
    np.testing.assert_allclose(other, 2.5 * one, rtol=1e-4, atol=1e-4)
    zeros = index.scores(np.zeros((3, DIM), np.float32), np.array([0, 3]), everything[:1])
    assert (zeros == 0).all()


def test_a_search_finds_the_best_scores(clear: tuple[Floats, TokenSets, TokenSets]) -> None:
    centroids, documents, queries = clear
    ids = np.random.default_rng(2).permutation(1000)[:200]
    index = CentroidIndex(centroids)
    index.add(ids[:90], documents.tokens[: documents.offsets[90]], documents.offsets[:91])
    index.add(ids[90:], documents.tokens[documents.offsets[90] :], documents.offsets[90:] - documents.offsets[90])
    everything = np.tile(np.sort(ids), (len(queries), 1))

    def check(allowed: np.ndarray, filtered: bool) -> None:
        scores = np.where(np.isin(everything, allowed), index.scores(*queries, everything), -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :30]  # ties to the smaller id
        best = np.take_along_axis(scores, order, 1)
        for threads in (1, 3):
            found = index.search(*queries, 30, filter=np.sort(allowed) if filtered else None, threads=threads)
            np.testing.assert_array_equal(found.scores, best)
            np.testing.assert_array_equal(found.ids, np.where(np.isneginf(best), -1, everything[0][order]))

    check(ids, False)
    check(ids[::9], True)
    assert index.delete(np.append(ids[:100], 10**6)) == 100
    for _ in range(2):
        assert len(index) == 100
        check(ids[100:], False)
        check(ids[90:110], True)
        index.compact()
    assert index.rows < len(documents.tokens) * 0.7
    index.add(ids[:100], documents.tokens[: documents.offsets[100]], documents.offsets[:101])
    check(ids, False)


def test_what_is_wrong_is_refused(clear: tuple[Floats, TokenSets, TokenSets]) -> None:
    centroids, documents, _ = clear
    index = CentroidIndex(centroids)
    part = documents.tokens[:3]
    index.add(np.array([5]), part, np.array([0, 3]))
    holed = part.copy()
    holed[1] = 0
    for ids, tokens, offsets, message in (
        ([5], part, [0, 3], "5"),
        ([6], holed, [0, 3], "token"),
        ([6], part[:, :9], [0, 3], "shape"),
        ([6, 7], part, [0, 3, 3], "no tokens"),
        ([6, 7], part, [0, 3], "2 documents"),
    ):
        with pytest.raises(InputError, match=message):
            index.add(np.array(ids), tokens, np.array(offsets))
    assert len(index) == 1
    for wrong in (np.full((2, 3), np.nan, np.float32), np.zeros((0, 3), np.float32)):
        with pytest.raises(InputError, match="centroids"):
            CentroidIndex(wrong)


def test_k_means_finds_what_lies_apart() -> None:
    rng = np.random.default_rng(3)
    middles = 5 * unit(rng.normal(size=(6, DIM)))
    own = rng.integers(0, 6, 3000)
    rows = (middles[own] + 0.1 * rng.normal(size=(3000, DIM))).astype(np.float32)
    found = k_means(rows, 60, np.random.default_rng(0), 4)
    near = ((found[:, None] - middles[None]) ** 2).sum(-1).min(1)
    assert near.max() < 0.5  # no centroid lies between them
    np.testing.assert_array_equal(k_means(rows, 60, np.random.default_rng(0), 4), found)
    one = k_means(rows, 1, np.random.default_rng(0), 2)
    np.testing.assert_allclose(one[0], rows.mean(0), atol=1e-4)
    assert learn_centroids(rows[:1], rng).shape == (1, DIM)
    assert np.isfinite(learn_centroids(np.repeat(rows[:1], 500, axis=0), rng)).all()  # all the same


def test_narrowing_takes_the_sum_of_standard_scores() -> None:
    rng = np.random.default_rng(4)
    found = Matches(np.argsort(rng.random((5, 40))), 3 + 0.1 * rng.random((5, 40), np.float32))
    approximate = (100 * rng.random((5, 40))).astype(np.float32)
    approximate[2, 5] = -np.inf  # was deleted meanwhile
    ids = narrowed(found, approximate, 7)
    for row in range(5):
        there = np.isfinite(approximate[row])
        one, two = (x[row][there].astype(np.float64) for x in (approximate, found.scores))
        total = (one - one.mean()) / one.std() + (two - two.mean()) / two.std() / 2
        assert set(ids[row]) == set(found.ids[row][there][np.argsort(-total)[:7]])
    every = narrowed(found, approximate, 50)
    assert every.shape == (5, 50)
    assert (every[2] >= 0).sum() == 39
    same = narrowed(Matches(found.ids, np.ones((5, 40), np.float32)), approximate, 3)
    np.testing.assert_array_equal(np.sort(same[0]), np.sort(found.ids[0][np.argsort(-approximate[0])[:3]]))


def test_centroids_find_more_with_the_same_number_of_candidates() -> None:
    documents, queries = mixtures(np.random.default_rng(5), 1200, 60, (10, 40), 32, 1.0)
    truth = np.argsort(-chamfer(queries, documents), axis=1)[:, :10]
    shares = []
    for generator, centroids in (("mean", False), ("mean", True), ("centroids", True)):
        index = MultiVectorIndex(32, generator, centroids=centroids, links=False)  # type: ignore[arg-type]
        index.add(np.arange(1200), *documents)
        found = index.search(*queries, 10, candidates=50).ids
        shares.append(np.mean([np.isin(one, other).mean() for one, other in zip(truth, found, strict=True)]))
    assert shares[1] > shares[0] + 0.1
    assert shares[2] > shares[0] + 0.1


def test_centroids_are_learned_anew_while_more_of_them_suit() -> None:
    documents, queries = mixtures(np.random.default_rng(6), 3000, 20, (4, 8), 16, 1.0)
    index = MultiVectorIndex(16, "centroids", links=False)
    counts = []
    for start in range(0, 3000, 300):
        offsets = documents.offsets[start : start + 301]
        index.add(np.arange(start, start + 300), documents.tokens[offsets[0] : offsets[-1]], offsets - offsets[0])
        counts.append(index.stats().centroids)
    assert 2 <= len(set(counts)) <= 3  # not at every turn
    assert counts[-1] > 3 * counts[0]
    truth = np.argsort(-chamfer(queries, documents), axis=1)[:, :10]
    found = index.search(*queries, 10, candidates=300).ids
    assert np.mean([np.isin(one, other).mean() for one, other in zip(truth, found, strict=True)]) > 0.95


def test_forged_centroids_are_refused(tmp_path: Path) -> None:
    documents, _ = mixtures(np.random.default_rng(7), 300, 2, (4, 8), 16, 1.0)
    index, path = MultiVectorIndex(16, "centroids"), tmp_path / "index"
    index.add(np.arange(300), *documents)
    index.save(path)
    file = read_sections(path)
    content = {name: file.section(name).copy() for name in file.names}
    for name, change in (
        ("centroids/numbers", lambda data: data.fill(255)),
        ("centroids/centroids", lambda data: data.fill(255)),  # NaN
        ("centroids/ends", lambda data: data.fill(0)),
        ("centroids/ids", lambda data: None),
    ):
        forged = {other: data.copy() for other, data in content.items()}
        change(forged[name])
        if name.endswith("ids"):
            forged[name] = forged[name][:-8]
        write_sections(path, file.kind, file.meta, {other: [data] for other, data in forged.items()})
        with pytest.raises(DamagedFileError):
            MultiVectorIndex.open(path)
