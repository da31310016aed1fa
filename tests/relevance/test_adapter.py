"""The Cosine Adapter on lists of which the noise level is known (brief's checks: quality, order, negative cosines)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.errors import InputError
from rag.relevance import CandidateLists, CosineAdapter, candidate_lists, train_adapter
from rag.relevance.adapter import Base, Encoding, Inputs
from rag.relevance.logistic import fit_logistic
from rag.relevance.mappings import MAPPINGS, Mapping, apply, constrained, parameter_names
from rag.relevance.measures import auroc, pr_auc
from rag.relevance.scorers import SIMPLE
from rag.relevance.summaries import SUMMARY
from rag.relevance.truncation import Truncation
from tests.relevance.synthetic import DIM, noisy_lists

Unseen = tuple[CandidateLists, NDArray[Any]]


def random_adapter(mapping: Mapping, inputs: str = "query", *, base: Base = "cosine", seed: int = 0) -> CosineAdapter:
    rng = np.random.default_rng(seed)
    width = {"query": DIM, "scores": SUMMARY, "both": DIM + SUMMARY}[inputs]
    encoding = Encoding(inputs, False, np.zeros(width, np.float32), np.ones(width, np.float32))  # type: ignore[arg-type]
    p = len(parameter_names(mapping))
    arrays = (rng.standard_normal(shape).astype(np.float32) for shape in ((width, 16), (16,), (16, p), (p,)))
    return CosineAdapter(mapping, base, encoding, *arrays)


@pytest.mark.torch
def test_it_comes_near_to_what_knows_the_noise_and_beats_a_linear_one(adapter: CosineAdapter, unseen: Unseen):
    lists, level = unseen
    oracle = pr_auc(lists.scores - level[:, None].astype(np.float32), lists.labels)
    found = pr_auc(adapter(lists).values, lists.labels)
    raw = pr_auc(lists.scores, lists.labels)
    some = noisy_lists(500, 1)[0]
    weights = fit_logistic(crossed(some), some.labels.ravel(), 1e-5)
    linear = pr_auc((crossed(lists) @ weights[:-1]).reshape(lists.scores.shape).astype(np.float32), lists.labels)
    assert raw < 0.4
    assert found > 2 * raw
    assert found > linear + 0.1
    assert oracle - 0.03 < found <= oracle + 0.01


def crossed(lists: CandidateLists) -> NDArray[Any]:
    """x, q and x·q of every pair: what an adapter with slope and offset linear in q can use."""
    x, q = lists.scores[..., None], np.repeat(lists.queries[:, None], lists.scores.shape[1], axis=1)
    return np.concatenate([x, q, x * q], axis=2).reshape(-1, 2 * DIM + 1)


@pytest.mark.torch
def test_it_does_not_lose_where_the_noise_is_the_same_for_all():
    lists = noisy_lists(500, 2, constant=True)[0]
    found = train_adapter(noisy_lists(1000, 1, constant=True)[0], noisy_lists(300, 3, constant=True)[0], epochs=10)
    assert pr_auc(found(lists).values, lists.labels) > pr_auc(lists.scores, lists.labels) - 0.01


@pytest.mark.torch
def test_the_parameters_of_other_queries_lose_the_gain(adapter: CosineAdapter, unseen: Unseen):
    lists, _ = unseen
    shuffled = replace(lists, queries=np.roll(lists.queries, 1, axis=0))
    own, others = (pr_auc(adapter(which).values, lists.labels) for which in (lists, shuffled))
    assert others < pr_auc(lists.scores, lists.labels) + 0.02
    assert others < own - 0.3


@pytest.mark.torch
def test_it_tells_queries_without_anything_relevant_where_the_score_alone_does_not(
    adapter: CosineAdapter, unseen: Unseen
):
    lists, _ = unseen
    gone = lists.take(np.arange(0, 1000, 5)).without_relevant()

    def told(values: Any) -> float:
        return auroc(values(lists).values[:, 0], values(gone).values[:, 0])

    assert told(adapter) > 0.9
    assert told(SIMPLE["raw"]) < 0.75
    assert told(SIMPLE["max"]) == 0.5


@pytest.mark.torch
def test_the_magnitude_invariant_form_learns_as_well(unseen: Unseen):
    lists, _ = unseen
    found = train_adapter(noisy_lists(3000, 1)[0], noisy_lists(600, 3)[0], epochs=10, invariant=True)
    assert pr_auc(found(lists).values, lists.labels) > 0.75
    larger = replace(lists, queries=lists.queries * 10)
    encoding = Encoding("query", True, np.zeros(DIM, np.float32), np.ones(DIM, np.float32))
    np.testing.assert_allclose(encoding(larger), encoding(lists), rtol=1e-5)
    both = Encoding.of(lists, "both", True)
    lengths = np.linalg.norm(both(lists), axis=1)
    np.testing.assert_allclose(lengths, (DIM + SUMMARY) ** 0.5, rtol=1e-4)


@pytest.mark.torch
def test_a_network_that_learned_nothing_of_use_is_silent():
    rng = np.random.default_rng(0)
    train, stop = noisy_lists(40, 1)[0], noisy_lists(300, 3)[0]
    noise = replace(train, queries=rng.standard_normal(train.queries.shape).astype(np.float32))
    found = train_adapter(noise, stop, epochs=2, hidden=8)
    assert pr_auc(found(stop).values, stop.labels) >= pr_auc(stop.scores, stop.labels) - 1e-6


@pytest.mark.torch
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_every_mapping_and_input_trains(mapping: Mapping):
    train, stop, lists = (noisy_lists(n, s)[0] for n, s in ((2000, 1), (300, 3), (300, 2)))
    kinds: tuple[tuple[Inputs, Base], ...]
    kinds = (("query", "cosine"), ("scores", "standardised"), ("both", Truncation.fit(train)))
    for inputs, base in kinds:
        found = train_adapter(train, stop, mapping=mapping, inputs=inputs, base=base, epochs=10, hidden=64)
        assert pr_auc(found(lists).values, lists.labels) > pr_auc(lists.scores, lists.labels) + 0.1


@pytest.mark.torch
def test_what_maps_a_truncation_model_is_no_worse_than_it_on_lists_of_any_length():
    train, stop = (cut_short(noisy_lists(n, s)[0]) for n, s in ((400, 1), (300, 3)))
    base = Truncation.fit(train)
    found = train_adapter(train, stop, inputs="both", base=base, epochs=4, hidden=32)(stop).values
    assert pr_auc(found, stop.judged) >= pr_auc(base(stop).values, stop.judged) - 1e-6
    assert np.isfinite(found[stop.mask]).all()
    assert (np.diff(np.where(stop.mask, found, np.float32(-1e9)), axis=1) <= 0).all(), "the order stays"


def cut_short(lists: CandidateLists) -> CandidateLists:
    """Every second list of 30 candidates."""
    kept = (np.arange(lists.scores.shape[1]) < 30) | (np.arange(len(lists)) % 2 == 0)[:, None]
    return candidate_lists(lists.scores, lists.queries, lists.judged, kept)


@pytest.mark.torch
def test_the_same_seed_gives_the_same_adapter_and_torchs_own_seed_is_left_alone():
    import torch

    train, stop = noisy_lists(200, 1)[0], noisy_lists(100, 3)[0]
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again = (train_adapter(train, stop, epochs=2, hidden=8, seed=5) for _ in range(2))
    assert torch.rand(1) == expected
    for name in ("hidden", "hidden_bias", "output", "default"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    other = train_adapter(train, stop, epochs=2, hidden=8, seed=6)
    assert not np.array_equal(other.hidden, first.hidden)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("inputs", ["query", "scores", "both"])
def test_the_order_within_a_query_stays(mapping: Mapping, inputs: str):
    rng = np.random.default_rng(1)
    lists = candidate_lists(rng.uniform(-1, 1, (50, 30)), rng.standard_normal((50, DIM)))
    for seed in range(5):
        adapter = random_adapter(mapping, inputs, base="standardised" if inputs == "scores" else "cosine", seed=seed)
        values = adapter(lists).values
        assert np.isfinite(values).all()
        assert (np.diff(values, axis=1) <= 0).all()
        assert (adapter(lists).parameters["a"] > 0).all()
        if mapping == "power":
            assert ((adapter(lists).parameters["k"] >= 0) & (adapter(lists).parameters["k"] <= 2)).all()


def test_the_forms_of_the_mappings():
    x = np.array([[-0.25, 0.0, 0.25, 1.0]], np.float32)
    expected = {
        "linear": [0.5, 1, 1.5, 3],
        "sqrt": [0, 1, 2, 3],
        "quadratic": [0.875, 1, 1.125, 3],
        "power": [0.75, 1, 1.25, 3],
    }
    for mapping, values in expected.items():
        exponent = [1.5] if mapping == "power" else []
        parameters = np.array([[2, 1, *exponent]], np.float32)
        np.testing.assert_allclose(apply(mapping, x, parameters), [values], atol=1e-6)  # type: ignore[arg-type]


def test_parameters_are_kept_in_their_bounds_whatever_the_network_says():
    wild = np.array([[-1e4, -1e4, -1e4], [1e4, 1e4, 1e4], [0, 0, 0]], np.float32)
    parameters = constrained("power", wild)
    assert np.isfinite(parameters).all()
    np.testing.assert_allclose(parameters[:, 0], [1e-3, 1e4, np.log(2) + 1e-3], rtol=1e-4)
    np.testing.assert_allclose(parameters[:, 2], [0, 2, 1], atol=1e-6)


def test_labels_that_are_all_alike_are_refused_by_name():
    lists = noisy_lists(30, 1)[0]
    none = replace(lists, labels=np.zeros_like(lists.labels))
    every = replace(lists, labels=np.ones_like(lists.labels))
    with pytest.raises(InputError, match="all 3000 candidates of 30 queries are not relevant"):
        train_adapter(none, lists)
    with pytest.raises(InputError, match="all 3000 candidates of 30 queries are relevant"):
        train_adapter(lists, every)


def test_it_says_what_it_misses():
    lists = noisy_lists(3, 1)[0]
    with pytest.raises(InputError, match="reads the query's embedding, and there is none"):
        random_adapter("linear")(replace(lists, queries=None))
    with pytest.raises(InputError, match="reads 64 numbers a query"):
        random_adapter("linear")(replace(lists, queries=lists.queries[:, :10]))
