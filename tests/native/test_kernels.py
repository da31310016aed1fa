"""Every kernel path that this machine has, against NumPy float64 and against each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from rag import _native
from rag.errors import InputError
from rag.index import CODECS, Codec, Metric, ScanIndex
from tests.index.conformance import random_vectors, reference_scores

ISAS = _native.isas()


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.isa()
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dim", [1, 3, 4, 15, 16, 17, 63, 64, 65, 383])
def test_scores_of_single_queries_and_of_panels(isa: str, metric: Metric, codec: Codec, dim: int) -> None:
    rng = np.random.default_rng(dim)
    vectors = random_vectors(rng, 203, dim)
    index = ScanIndex(dim, metric, codec)
    index.add(np.arange(203), vectors)
    stored = index.vectors(np.arange(203))
    for q in (1, 4, 17, 70):  # below and above the width of a panel, and no multiple of a register
        queries = random_vectors(rng, q, dim)
        found = index.search(queries, 7)
        if metric == "cosine":  # rounding leaves the stored vectors not quite at unit length; scores are theirs
            unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
            reference, scale = reference_scores("ip", unit, stored), 1.0
        else:
            reference = reference_scores(metric, queries, stored)
            scale = np.abs(reference).max() + dim
        own = np.take_along_axis(reference, found.ids, 1)
        np.testing.assert_allclose(found.scores, own, rtol=0, atol=2e-6 * scale)
        best = -np.sort(-reference, axis=1)[:, :7]
        right = np.abs(found.scores - best) <= 4e-6 * scale
        assert right.mean() >= (1 if codec in ("float32", "float16") else 0.98)


@pytest.mark.parametrize("codec", ["int8", "pq"])
def test_sums_of_integers_rank_the_same_everywhere(codec: Codec) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = random_vectors(rng, 900, 200), random_vectors(rng, 40, 200)
    before, found = _native.isa(), []
    try:
        for isa in ISAS:
            _native.set_isa(isa)
            index = ScanIndex(200, "l2", codec)
            index.add(np.arange(900), vectors)
            found.append(index.search(queries, 10).ids)
    finally:
        _native.set_isa(before)
    for ids in found[1:]:
        assert np.mean(ids == found[0]) > 0.999


def test_half_floats_round_as_in_numpy(isa: str) -> None:
    edges = [
        0,
        -0.0,
        1,
        -1,
        65504,
        2**-14,
        2**-15,
        2**-24,
        2**-25,
        1.5 * 2**-24,
        1 + 2**-11,
        1 + 3 * 2**-11,
        2049,
        2051,
    ]
    rng = np.random.default_rng(0)
    random = rng.normal(size=1000) * 2.0 ** rng.integers(-26, 14, 1000)
    values = np.concatenate([edges, random]).astype(np.float32)[None]
    index = ScanIndex(values.shape[1], "ip", "float16")
    index.add(np.array([0]), values)
    np.testing.assert_array_equal(index.vectors(np.array([0])), values.astype(np.float16).astype(np.float32))


def test_unknown_instruction_sets_are_refused() -> None:
    with pytest.raises(InputError, match="portable"):
        _native.set_isa("sse9")
