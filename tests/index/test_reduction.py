"""Reductions lose what their definition says, and no more than the simpler ones; codes that use them find more."""

import numpy as np
import pytest

from rag.errors import InputError
from rag.index import ScanIndex
from rag.index.reduction import REDUCTIONS, loss, reduced

RNG = np.random.default_rng(5)
DIM = 96


def spread(seed: int) -> np.ndarray:
    """A basis in which components become less and less."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
    return turn * (0.93 ** np.arange(DIM))[:, None] ** 0.5


VECTORS = (RNG.standard_normal((4000, DIM)) @ spread(1)).astype(np.float32)
QUERIES = (RNG.standard_normal((2000, DIM)) @ spread(2)).astype(np.float32)  # they vary in other directions


def moment(rows: np.ndarray) -> np.ndarray:
    return rows.T.astype(np.float64) @ rows / len(rows)


@pytest.mark.parametrize("how", REDUCTIONS)
def test_loss_is_what_inner_products_lose(how):
    matrices = reduced(moment(VECTORS), moment(QUERIES), 24, how)
    exact = QUERIES.astype(np.float64) @ VECTORS.T
    approximate = (QUERIES @ matrices.query.T) @ (VECTORS @ matrices.base.T).T
    lost = np.square(approximate - exact).sum() / np.square(exact).sum()
    assert loss(moment(VECTORS), moment(QUERIES), matrices) == pytest.approx(lost, rel=1e-6)
    assert 0 < lost < 1


@pytest.mark.parametrize("count", [12, 24, 48])
def test_what_knows_more_loses_less(count):
    """The order of section 9 of the paper's check: sphering, frank-wolfe, eigenvector search, pca."""
    moments = moment(VECTORS), moment(QUERIES)
    lost = [loss(*moments, reduced(*moments, count, how)) for how in ("sphering", "frank-wolfe", "es", "pca")]
    assert lost == sorted(lost)
    assert lost[0] < 0.8 * lost[-1]


@pytest.mark.parametrize("how", REDUCTIONS)
def test_with_all_directions_nothing_is_lost(how):
    moments = moment(VECTORS), moment(QUERIES)
    assert loss(*moments, reduced(*moments, DIM, how)) < 1e-9


def test_queries_like_the_vectors_gain_nothing():
    moments = moment(VECTORS), moment(VECTORS)
    lost = {how: loss(*moments, reduced(*moments, 24, how)) for how in REDUCTIONS}
    assert lost["sphering"] == pytest.approx(lost["pca"], rel=0.02)
    assert lost["es"] == pytest.approx(lost["pca"], rel=0.02)


@pytest.mark.parametrize("how", REDUCTIONS)
def test_fewer_queries_than_directions_are_enough_to_learn_from(how):
    few = moment(QUERIES[:5])
    matrices = reduced(moment(VECTORS), few, 24, how)
    assert np.isfinite(matrices.base).all()
    assert np.isfinite(matrices.query).all()


def test_leanvec_finds_more_with_each_than_without_queries():
    rng = np.random.default_rng(6)
    vectors = (rng.standard_normal((3000, 384)) * 0.995 ** np.arange(384)).astype(np.float32)
    turn = np.arange(384)[::-1]
    queries = (rng.standard_normal((600, 384)) * 0.98 ** np.arange(384)[turn]).astype(np.float32)
    exact = ScanIndex(384, "ip")
    exact.add(np.arange(len(vectors)), vectors)
    truth = exact.search(queries[:100], 10).ids
    found = {}
    for how in (None, *REDUCTIONS):
        index = ScanIndex(384, "ip", "leanvec")
        if how is None:
            index.learn(vectors)
        else:
            index.learn(vectors, queries[100:], reduction=how)
        index.add(np.arange(len(vectors)), vectors)
        got = index.search(queries[:100], 10, rerank=50).ids
        found[how] = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(got, truth, strict=True)])
    assert found["pca"] == found[None]
    assert min(found["es"], found["frank-wolfe"], found["sphering"]) > found["pca"] + 0.05


def test_another_reduction_is_refused_by_name():
    index = ScanIndex(8, codec="leanvec")
    with pytest.raises(InputError, match="no reduction 'spherin'.*sphering"):
        index.learn(np.eye(8, dtype=np.float32), np.eye(8, dtype=np.float32), reduction="spherin")  # type: ignore[arg-type]
