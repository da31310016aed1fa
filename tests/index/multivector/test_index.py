"""MultiVectorIndex: what it finds, against exhaustive MaxSim, and what it offers around that."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.errors import CollectionError, DamagedFileError, InputError, NotFoundError
from rag.index import IdFilter, Matches, ScanIndex
from rag.index.multivector import CandidateCurve, FixedDimensionalEncoding, MultiVectorIndex, TokenStore
from rag.index.multivector.choice import suited_generator
from tests.index.multivector.samples import Floats, Ids, TokenSets, chamfer, mixtures, random_sets, unit

DIM = 32
GENERATORS = ["mean", "fde", "given", "centroids", "none"]


def means(sets: TokenSets) -> Floats:
    return unit(np.add.reduceat(sets.tokens.astype(np.float64), sets.offsets[:-1], axis=0))


def vectors_for(generator: str, sets: TokenSets) -> dict[str, Floats]:
    return {"vectors": means(sets)} if generator == "given" else {}


def made(generator: str, **rest: Any) -> MultiVectorIndex:
    if generator == "given":
        rest["vector_dim"] = DIM
    if generator == "fde":
        rest.setdefault("encoding", FixedDimensionalEncoding(DIM, 3, 8, 5))
        rest.setdefault("codec", "float16")
    return MultiVectorIndex(DIM, generator, **rest)


def joined(*parts: TokenSets) -> TokenSets:
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenSets(np.concatenate([part.tokens for part in parts]), offsets)


def taken(sets: TokenSets, rows: Ids) -> TokenSets:
    return joined(*(TokenSets(sets.of(i), np.array([0, len(sets.of(i))])) for i in rows))


@pytest.fixture(scope="module")
def sample() -> tuple[TokenSets, TokenSets]:
    return mixtures(np.random.default_rng(0), 900, 60, (5, 30), DIM, 1.5)


def filled(generator: str, documents: TokenSets, **rest: Any) -> MultiVectorIndex:
    index = made(generator, **rest)
    index.add(np.arange(len(documents)) * 2, *documents, **vectors_for(generator, documents))
    return index


def check(found: Matches, queries: TokenSets, documents: TokenSets, ids: Ids, k: int) -> float:
    """That the scores are those of the ids, best first, and the share of the true k best that was found."""
    scores = chamfer(queries, documents)
    assert found.ids.shape == found.scores.shape == (len(queries), k)
    n = min(k, len(ids))
    assert (found.ids[:, n:] == -1).all()
    assert np.isneginf(found.scores[:, n:]).all()
    row_of = {int(id): row for row, id in enumerate(ids)}
    rows = np.array([[row_of[int(id)] for id in line[:n]] for line in found.ids])
    np.testing.assert_allclose(found.scores[:, :n], np.take_along_axis(scores, rows, 1), rtol=2e-3, atol=2e-3)
    assert (np.diff(found.scores[:, :n], axis=1) <= 0).all()
    worst = -np.sort(-scores, axis=1)[:, n - 1 : n]
    return float((np.take_along_axis(scores, rows, 1) >= worst - 0.01).mean())


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_recall_that_is_asked_for_is_reached(generator: str, sample: tuple[TokenSets, TokenSets]) -> None:
    documents, queries = sample
    index = filled(generator, documents)
    ids = np.arange(len(documents)) * 2
    for recall in (0.8, 0.95, 1.0):
        for k in (1, 10, 50):
            found = index.search(*queries, k, recall=recall, **vectors_for(generator, queries))
            least = (
                1 if recall == 1 or generator == "none" else recall - 0.02
            )  # these queries are not those measured with
            assert check(found, queries, documents, ids, k) >= least


@pytest.mark.parametrize("generator", GENERATORS)
def test_few_documents_are_all_compared(generator: str) -> None:
    rng = np.random.default_rng(1)
    documents, queries = random_sets(rng, rng.integers(1, 9, 100), DIM), random_sets(rng, [4, 1], DIM)
    index = filled(generator, documents)
    assert index.stats().candidates is None
    for k in (1, 7, 120):
        assert (
            check(
                index.search(*queries, k, **vectors_for(generator, queries)), queries, documents, np.arange(100) * 2, k
            )
            == 1
        )
    empty = made(generator)
    nothing = empty.search(*queries, 3, **vectors_for(generator, queries))
    assert (nothing.ids == -1).all()


def test_candidates_are_as_many_as_are_asked_for(sample: tuple[TokenSets, TokenSets]) -> None:
    documents, queries = sample
    index, ids = filled("mean", documents, codec="float32", links=False, centroids=False), np.arange(len(documents)) * 2
    near = np.argsort(-(means(queries) @ means(documents).T), axis=1, kind="stable")[:, :25]
    found = index.search(*queries, 10, candidates=25)
    truth = np.take_along_axis(chamfer(queries, documents), near, 1)
    best = np.take_along_axis(near, np.argsort(-truth, axis=1)[:, :10], 1)
    assert (found.ids == ids[best]).mean() > 0.99  # but for near ties, by half floats
    assert check(index.search(*queries, 10, candidates=3), queries, documents, ids, 10) > 0  # at least k


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("share", [0.01, 0.3])
def test_filters(generator: str, share: float, sample: tuple[TokenSets, TokenSets]) -> None:
    documents, queries = sample
    index = filled(generator, documents)
    rows = np.flatnonzero(np.random.default_rng(2).random(len(documents)) < share)
    for allowed in (IdFilter(rows * 2), rows * 2):
        found = index.search(*queries, 10, filter=allowed, **vectors_for(generator, queries))
        assert check(found, queries, taken(documents, rows), rows * 2, 10) >= 0.92


@pytest.mark.parametrize("generator", GENERATORS)
def test_what_is_deleted_is_not_found(generator: str, sample: tuple[TokenSets, TokenSets], tmp_path: Path) -> None:
    documents, queries = sample
    index, ids = filled(generator, documents), np.arange(len(documents)) * 2
    gone = np.random.default_rng(3).choice(len(ids), 500, replace=False)
    assert index.delete(np.append(ids[gone], 1)) == 500
    left = np.setdiff1d(np.arange(len(ids)), gone)
    for _ in range(2):
        assert len(index) == 400
        found = index.search(*queries, 10, **vectors_for(generator, queries))
        assert check(found, queries, taken(documents, left), ids[left], 10) >= 0.92
        index.compact()
    index.save(tmp_path / "index")
    again = MultiVectorIndex.open(tmp_path / "index")
    assert len(again) == 400
    back = taken(documents, gone)
    for one in (index, again):
        one.add(ids[gone], *back, **vectors_for(generator, back))
        found = one.search(*queries, 10, **vectors_for(generator, queries))
        assert check(found, queries, documents, ids, 10) >= 0.92


@pytest.mark.parametrize("generator", GENERATORS)
def test_saved_and_opened_it_finds_the_same(
    generator: str, sample: tuple[TokenSets, TokenSets], tmp_path: Path
) -> None:
    documents, queries = sample
    index = filled(generator, documents, tokens="int8")
    index.save(tmp_path / "index")
    again = MultiVectorIndex.open(tmp_path / "index")
    assert (again.dim, again.generator, len(again)) == (DIM, generator, len(documents))
    assert again.stats() == index.stats()
    for k in (3, 40):
        one, other = (i.search(*queries, k, **vectors_for(generator, queries)) for i in (index, again))
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.scores, other.scores)
    again.save(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "index").read_bytes()
    more = random_sets(np.random.default_rng(0), [3, 4], DIM)
    again.add(np.array([1, 3]), *more, **vectors_for(generator, more))
    assert len(again) == len(documents) + 2
    assert len(MultiVectorIndex.open(tmp_path / "index")) == len(documents)


def test_queries_are_answered_one_by_one_as_together(sample: tuple[TokenSets, TokenSets]) -> None:
    documents, queries = sample
    index = filled("fde", documents)
    together = index.search(*queries, 10, candidates=60)
    for i in range(0, len(queries), 7):
        alone = index.search(queries.of(i), np.array([0, 16]), 10, candidates=60, threads=1)
        np.testing.assert_array_equal(alone.ids[0], together.ids[i])


def test_the_curve_is_measured_as_documents_come_and_with_real_queries(sample: tuple[TokenSets, TokenSets]) -> None:
    documents, queries = sample
    index = made("mean")
    counts = []
    for start in range(0, 900, 100):
        part = taken(documents, np.arange(start, start + 100))
        index.add(np.arange(start, start + 100), *part)
        curve = index.stats().candidates
        counts.append(None if curve is None else curve.documents)
    assert counts[:2] == [None, None]
    assert None not in counts[2:]
    assert 3 <= len(set(counts)) <= 6  # not at every turn
    assert counts[-1] > 900 / 1.5 / 1.2  # of 900, some of which stood in for queries
    before = index.stats().candidates
    curve = index.calibrate(*queries)
    assert curve == index.stats().candidates != before
    assert curve.documents == 900
    truth = np.argsort(-chamfer(queries, documents), axis=1)[:, :10]
    for budget, recall in zip(curve.budgets, curve.recalls[0], strict=True):
        found = index.search(*queries, 10, candidates=budget).ids
        share = np.mean([np.isin(one, other).mean() for one, other in zip(truth, found, strict=True)])
        assert share == pytest.approx(recall, abs=0.02)


def test_what_candidates_are_found_by_is_decided_by_measurement(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    documents, queries = mixtures(rng, 2100, 40, (4, 12), DIM, 1.0)
    index = MultiVectorIndex(DIM)
    ids = np.arange(2100)
    index.add(ids[:1900], *taken(documents, ids[:1900]))
    index.save(tmp_path / "index")
    for one in (index, MultiVectorIndex.open(tmp_path / "index")):
        assert one.generator == "auto"
        found = one.search(*queries, 10)
        assert check(found, queries, taken(documents, ids[:1900]), ids[:1900], 10) == 1  # all are compared
        one.add(ids[1900:], *taken(documents, ids[1900:]))
        assert one.generator in ("mean", "fde", "centroids")
        assert one.stats().candidates is not None
        assert one.stats().vectors is None or one.stats().vectors.vectors == 2100
        assert one.stats().centroids > 0
        assert check(one.search(*queries, 10), queries, documents, ids, 10) >= 0.92


@pytest.mark.parametrize("right", ["mean", "fde"])
def test_the_generator_that_serves_a_collection_better_is_chosen(right: str) -> None:
    rng = np.random.default_rng(9)
    directions = rng.normal(size=(100, 20, DIM))  # of families of documents
    if right == "mean":  # the tokens of a document differ little
        directions = directions[:, :1] + 0.3 * directions
    else:  # they cancel out
        directions = np.concatenate([directions, -directions], axis=1)
    count = directions.shape[1]
    noisy = np.repeat(directions, 15, axis=0) + 0.3 * rng.normal(size=(1500, count, DIM))
    store = TokenStore(DIM)
    store.add(np.arange(1500), unit(noisy.reshape(-1, DIM)), np.arange(0, 1500 * count + 1, count))
    assert suited_generator(store, rng, centroids=False) == right
    assert suited_generator(store, rng) in (right, "centroids")


def test_a_curve_of_real_queries_stays(sample: tuple[TokenSets, TokenSets], tmp_path: Path) -> None:
    documents, queries = sample
    index = made("centroids")
    index.add(np.arange(300), *taken(documents, np.arange(300)))
    assert not index.stats().candidates.real
    curve = index.calibrate(*queries)
    assert curve.real
    index.add(np.arange(300, 900), *taken(documents, np.arange(300, 900)))
    index.save(tmp_path / "index")
    assert index.stats().candidates == MultiVectorIndex.open(tmp_path / "index").stats().candidates == curve
    for recall in (0.9, 0.95):
        asked = CandidateCurve(curve.documents, curve.budgets, curve.recalls).candidates(10, recall, 900)
        assert curve.candidates(10, recall, 900) < asked  # nothing is kept in hand
        assert check(index.search(*queries, 10, recall=recall), queries, documents, np.arange(900), 10) >= recall - 0.01


def test_the_codec_of_the_tokens_learns_from_what_it_is_given() -> None:
    rng = np.random.default_rng(10)
    few, all_of_them = random_sets(rng, [1], DIM), random_sets(rng, rng.integers(5, 30, 400), DIM)
    stores = []
    for learned in (False, True):
        index = made("none", tokens="residual4")
        if learned:
            index.learn(all_of_them.tokens)
        index.add(np.array([1000]), *few)
        index.add(np.arange(400), *all_of_them)
        stores.append(index.store.vectors(np.arange(400))[0])
    errors = [np.square(store - all_of_them.tokens).sum(1).mean() for store in stores]
    assert errors[1] < 0.5 * errors[0]
    with pytest.raises(InputError, match="holds tokens"):
        index.learn(few.tokens)


def test_more_documents_and_results_take_more_candidates() -> None:
    curve = CandidateCurve(1000, (10, 100, 1000), ((0.5, 0.9, 1.0), (0.1, 0.5, 0.98)))
    assert curve.candidates(10, 0.8, 1000) == 100  # half of the misses are left to others
    assert curve.candidates(10, 0.8, 3000) == 300
    assert curve.candidates(10, 0.6, 1000) == 78
    assert curve.candidates(30, 0.5, 1000) == 569
    assert curve.candidates(100, 0.99, 1000) is None
    assert curve.candidates(200, 0.1, 1000) == 388
    assert CandidateCurve(1000, (10,), ((1.0,), (1.0,))).candidates(90, 0.9, 500) == 90
    assert CandidateCurve.read({"documents": 3, "budgets": [1], "recalls": [[1], [1]]}).documents == 3
    for wrong in ({"recalls": [[1]]}, {"budgets": []}, {"recalls": [[1], [1, 2]]}, {"documents": 0}):
        with pytest.raises(ValueError, match="none"):
            CandidateCurve.read({"documents": 3, "budgets": [1], "recalls": [[1], [1]]} | wrong)


def _unfit(generator: str, change: dict[str, Any]) -> dict[str, Any]:
    """Vectors where none are wanted, and none where they are."""
    return {"vectors": None} if generator == "given" and "vectors" in change else change


def test_wrong_input_is_refused_and_nothing_is_added(sample: tuple[TokenSets, TokenSets]) -> None:
    documents, _ = sample
    part = taken(documents, np.arange(5))
    holed = part.tokens.copy()
    holed[7, 3] = np.nan
    ids = np.arange(5)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"ids": ids[:4]}, "ids|offsets"),
        ({"ids": ids - 1}, "-1"),
        ({"ids": np.array([0, 1, 2, 2, 3])}, "2"),
        ({"tokens": part.tokens[:, :31]}, "shape"),
        ({"tokens": holed}, "nan"),
        ({"offsets": part.offsets[:-1]}, "offsets"),
        ({"offsets": part.offsets + 1}, "offsets"),
        ({"offsets": np.array([0, 3, 3, 5, 6, len(part.tokens)])}, "token"),
        ({"offsets": np.array([0, 9, 3, 12, 13, len(part.tokens)])}, "offsets"),
        ({"vectors": means(part)}, "vectors"),
    ]
    for generator in GENERATORS:
        index = made(generator)
        arguments = {"ids": ids, "tokens": part.tokens, "offsets": part.offsets, **vectors_for(generator, part)}
        for change, message in cases:
            with pytest.raises(InputError, match=message):
                index.add(**{**arguments, **_unfit(generator, change)})
            assert len(index) == 0
        index.add(ids, *part, **vectors_for(generator, part))
        with pytest.raises(InputError, match="4"):
            index.add(np.array([9, 4]), *taken(part, np.arange(2)), **vectors_for(generator, taken(part, np.arange(2))))
        assert len(index) == 5
        more = [({"k": 0}, "k is 0"), ({"recall": 0}, "recall"), ({"candidates": -1}, "candidates")]
        for change, message in [*cases[3:], *more]:
            asked = {"tokens": part.tokens, "offsets": part.offsets, "k": 2, "candidates": 2}
            with pytest.raises(InputError, match=message):
                index.search(**{**asked, **vectors_for(generator, part), **_unfit(generator, change)})


def test_forms_that_do_not_go_together_are_refused() -> None:
    encoding = FixedDimensionalEncoding(DIM, 3, 8, 5)
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("means", {}, "did you mean 'mean'"),
        ("given", {}, "vector_dim"),
        ("mean", {"vector_dim": 3}, "vector_dim"),
        ("mean", {"encoding": encoding}, "encoding"),
        ("none", {"encoding": encoding}, "no encoding"),
        ("fde", {"encoding": FixedDimensionalEncoding(16, 3, 8, 5)}, "16 numbers"),
        ("fde", {"encoding": FixedDimensionalEncoding(DIM, 9, 16, 20)}, "dim is 163840"),
    ]
    for generator, form, message in cases:
        with pytest.raises(InputError, match=message):
            MultiVectorIndex(DIM, generator, **form)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nothing to measure"):
        made("none").calibrate(np.ones((1, DIM), np.float32), np.array([0, 1]))
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(made("mean"))


def test_damaged_files_are_noticed(sample: tuple[TokenSets, TokenSets], tmp_path: Path) -> None:
    documents, queries = sample
    path = tmp_path / "index"
    filled("fde", documents).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(4)
    for at in rng.choice(len(whole), 40, replace=False):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.integers(8)]) + whole[at + 1 :])
        if whole[at] == path.read_bytes()[at]:
            continue
        with pytest.raises((DamagedFileError, CollectionError)):
            MultiVectorIndex.open(path).search(*queries, 3)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedFileError):
        MultiVectorIndex.open(path)
    with pytest.raises(NotFoundError):
        MultiVectorIndex.open(tmp_path / "none")
    ScanIndex(3).save(path)
    with pytest.raises(CollectionError, match="kind 'scan'"):
        MultiVectorIndex.open(path)


def test_searches_go_on_while_documents_come_and_go(sample: tuple[TokenSets, TokenSets]) -> None:
    documents, queries = sample
    index = filled("mean", documents)
    stop, failures = threading.Event(), []

    def ask() -> None:
        try:
            while not stop.is_set():
                index.search(*queries, 5, candidates=50, threads=1)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    for start in range(0, 800, 100):
        part = taken(documents, np.arange(start, start + 100))
        index.delete(np.arange(start, start + 100) * 2)
        index.add(np.arange(start, start + 100) * 2, *part)
    stop.set()
    thread.join()
    assert not failures
    assert len(index) == 900
