"""Codecs of keys and values: what stays, what merged tokens stand for, and how near their attention comes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import ConfigError, InputError
from rag.kvcache.attention import Received
from rag.kvcache.compress import CODECS, D2O, EMS, KVMerger, as_codec, importance

pytestmark = pytest.mark.torch
METHODS = sorted(CODECS)


def text(tokens: int, seed: int = 0, heads: int = 2, wide: int = 8) -> tuple[Any, Any, Any]:
    """Keys, values and scores of a text in which neighbours are alike, as in real ones."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    steps = torch.randn(heads, tokens, wide, generator=draw)
    keys = torch.nn.functional.conv1d(steps.flatten(0, 1).T[None], torch.ones(wide, 1, 3) / 2, padding=1, groups=wide)
    keys = keys[0].T.unflatten(0, (heads, tokens)) + 0.3 * torch.randn(heads, tokens, wide, generator=draw)
    values = torch.randn(heads, tokens, wide, generator=draw).cumsum(1) / 4
    return keys, values, torch.rand(heads, tokens, generator=draw) ** 4


def output(queries: Any, keys: Any, values: Any, bias: Any = None) -> Any:
    logits = queries @ keys.transpose(-1, -2)
    return (logits if bias is None else logits + bias[:, None]).softmax(-1) @ values


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 70), budget=st.floats(0.01, 1), seed=st.integers(0, 99))
def test_counts_and_ends(torch: ModuleType, method: str, tokens: int, budget: float, seed: int):
    keys, values, scores = text(tokens, seed)
    less = as_codec(method).compress(keys, values, scores, budget)
    count = int(np.ceil(budget * tokens - 1e-9))
    assert less.keys.shape == less.values.shape == (2, count, 8)
    assert less.positions.shape == (2, count)
    assert bool((less.positions.diff(dim=-1) > 0).all())
    recent = max(1, count // 4)
    sinks = min(4, count - recent)
    for places in less.positions.tolist():
        assert places[:sinks] == list(range(sinks))
        assert places[count - recent :] == list(range(tokens - recent, tokens))
    assert bool(less.keys.isfinite().all() & less.values.isfinite().all())
    if less.bias is not None:
        assert less.bias.shape == (2, count)
        assert bool(less.bias.isfinite().all())
        alone = less.bias == 0  # who stands for itself alone is what it was, bit for bit
        assert torch.equal(less.keys[alone], keys.gather(1, less.positions[..., None].expand(-1, -1, 8))[alone])


@pytest.mark.parametrize("method", METHODS)
def test_the_whole_budget_changes_nothing(torch: ModuleType, method: str):
    keys, values, scores = text(40)
    less = as_codec(method).compress(keys, values, scores, 1.0)
    assert torch.equal(less.keys, keys)
    assert torch.equal(less.values, values)
    assert less.positions.tolist() == [list(range(40))] * 2
    assert less.bias is None
    for budget in (0.0, -0.5, 1.1):
        with pytest.raises(InputError, match=f"is {budget}, expected above 0"):
            as_codec(method).compress(keys, values, scores, budget)


@pytest.mark.parametrize("method", ["kvmerger", "d2o", "ems"])
def test_repeated_tokens_keep_their_weight(torch: ModuleType, method: str):
    keys, values, _ = text(48, wide=16)
    scores = torch.ones(2, 48)
    scores[:, 4:20] = 10.0
    times = torch.tensor([1] * 20 + [2] * 16 + [1] * 12)  # 48 tokens, 16 of which come twice
    parts = [part.repeat_interleave(times, 1) for part in (keys, values, scores)]
    first = torch.ones(64, dtype=torch.bool)
    first[times.cumsum(0)[20:36] - 1] = False
    parts[2][:, first] *= 1 + 1e-6
    less = as_codec(method).compress(*parts, 0.75)
    assert less.positions.tolist() == [first.nonzero()[:, 0].tolist()] * 2
    assert torch.allclose(less.keys, keys, atol=1e-6)
    assert torch.allclose(less.values, values, atol=1e-6)
    assert torch.allclose(less.bias, times.log().expand(2, -1), atol=1e-5)
    queries = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))
    expected = output(queries, *parts[:2])
    assert float((output(queries, less.keys, less.values, less.bias) - expected).abs().max()) < 1e-5
    assert float((output(queries, less.keys, less.values) - expected).abs().max()) > 1e-3


def test_kvmerger_joins_the_most_similar_neighbours(torch: ModuleType):
    keys, values, scores = text(60, heads=1)
    less = KVMerger().compress(keys, values, scores, 0.5)
    alone = set(range(4)) | set(range(53, 60))  # 30 stay: 4 sinks, 7 recent, 9 for their scores
    alone |= set((4 + scores[0, 4:53].argsort(descending=True)[:9]).tolist())
    cosine = torch.nn.functional.cosine_similarity(keys[0, :-1], keys[0, 1:], dim=-1)
    free = [at for at in range(59) if not {at, at + 1} & alone]
    joined = set(sorted(free, key=lambda at: -float(cosine[at]))[:30])
    runs: list[list[int]] = []
    for at in range(60):
        if at and at - 1 in joined:
            runs[-1].append(at)
        else:
            runs.append([at])
    assert less.positions[0].tolist() == [max(run, key=lambda at: float(scores[0, at])) for run in runs]
    for place, run in enumerate(runs):  # a mean lies within what it is the mean of, and nearest to the pivot
        inside = keys[0, run]
        assert bool((less.keys[0, place] >= inside.amin(0) - 1e-6).all())
        assert bool((less.keys[0, place] <= inside.amax(0) + 1e-6).all())
        assert len(run) == 1 or float(less.bias[0, place]) > 0


def test_d2o_remembers_how_alike_tokens_are(torch: ModuleType):
    codec = D2O()
    codec.remember(torch.tensor([[0.2, 0.6], [0.5, 0.9]]))
    assert codec.tau.tolist() == pytest.approx([0.4, 0.7])
    codec.remember(torch.tensor([[0.1, 0.3], [0.8, 0.4]]))
    assert codec.tau.tolist() == pytest.approx([0.7 * 0.3 + 0.3 * 0.4, 0.7 * 0.8 + 0.3 * 0.7])


@pytest.mark.parametrize("by_score", [True, False])
def test_d2o_merges_by_its_equations(torch: ModuleType, by_score: bool):
    keys, values, scores = text(24, heads=1)
    less = D2O(by_score=by_score).compress(keys, values, scores, 0.5)
    kept = less.positions[0].tolist()
    unit = torch.nn.functional.normalize(keys[0], dim=-1)
    gone = [at for at in range(24) if at not in kept]
    alike = unit[gone] @ unit[kept].T
    tau = float(alike.amax(1).mean())
    groups: dict[int, list[tuple[int, float]]] = {at: [(at, 1.0)] for at in kept}
    for at, row in zip(gone, alike, strict=True):
        if float(row.max()) >= tau:
            groups[kept[int(row.argmax())]].append((at, float(row.max())))
    assert any(len(group) == 1 for group in groups.values())
    assert any(len(group) > 1 for group in groups.values())
    for place, group in enumerate(groups.values()):
        raw = [np.exp(cosine) * (float(scores[0, at]) if by_score else 1) for at, cosine in group]
        weights = torch.tensor(raw).float() / sum(raw)
        members = [at for at, _ in group]
        assert torch.allclose(less.keys[0, place], weights @ keys[0, members], atol=1e-5)
        assert torch.allclose(less.values[0, place], weights @ values[0, members], atol=1e-5)


def test_ems_throws_away_what_resembles_no_centre(torch: ModuleType):
    keys, values, scores = text(40)
    alone = EMS(alike=1.1).compress(keys, values, scores, 0.4)
    evicted = as_codec("evict").compress(keys, values, scores, 0.4)
    assert torch.equal(alone.keys, evicted.keys)
    assert float(alone.bias.abs().max()) == 0
    all_in = EMS(alike=-1.1).compress(keys, values, scores, 0.4)
    assert torch.equal(all_in.positions, evicted.positions)
    merged = all_in.bias != 0
    centres = keys.gather(1, all_in.positions[..., None].expand(-1, -1, 8))
    assert int(merged.sum()) > 8
    assert not bool((all_in.keys == centres).all(-1)[merged].any())
    assert float(all_in.keys.norm(dim=-1).max()) <= float(keys.norm(dim=-1).max()) + 1e-5  # not shorter, not longer
    assert float(all_in.keys.norm(dim=-1).min()) >= float(keys.norm(dim=-1).min()) - 1e-5


def test_one_query_finds_the_weight_it_had(torch: ModuleType):
    """The bias gives a merged token exactly the attention that its tokens had, for the query that it was taken from."""
    keys, values, _ = text(40)
    query = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(5))
    weights = (query @ keys.transpose(-1, -2)).softmax(-1)[:, 0]
    less = KVMerger().compress(keys, values, weights, 0.4)
    logits = (query @ less.keys.transpose(-1, -2))[:, 0] + less.bias
    assert torch.allclose(logits.exp().sum(-1), (query @ keys.transpose(-1, -2))[:, 0].exp().sum(-1), rtol=1e-4)


def test_merging_comes_nearer_than_eviction(torch: ModuleType):
    errors: dict[str, list[float]] = {method: [] for method in METHODS}
    for seed in range(12):
        keys, values, _ = text(120, seed)
        queries = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(seed))
        weights = (queries[:, :32] @ keys.transpose(-1, -2)).softmax(-1).sum(1)
        scores = importance(Received(weights, weights, torch.full((120,), 32)))
        expected = output(queries[:, 32:], keys, values)
        for method in METHODS:
            for budget in (0.5, 0.35, 0.2):
                less = as_codec(method).compress(keys, values, scores, budget)
                got = output(queries[:, 32:], less.keys, less.values, less.bias)
                errors[method].append(float((got - expected).norm() / expected.norm()))
    means = {method: np.mean(found) for method, found in errors.items()}
    assert means.pop("evict") > max(means.values())


def test_importance_weighs_all_and_recent_alike(torch: ModuleType):
    received = Received(torch.tensor([[6.0, 2.0]]), torch.tensor([[0.0, 3.0]]), torch.tensor([2, 1]))
    assert importance(received).tolist() == [[0.75, 1.25]]


def test_codecs_by_name():
    assert as_codec("ems", alike=0.5) == EMS(alike=0.5)
    with pytest.raises(ConfigError, match="did you mean 'kvmerger'"):
        as_codec("kvmerge")


def test_blocks_of_cosines_make_no_difference(torch: ModuleType, monkeypatch: pytest.MonkeyPatch):
    parts = text(50)
    whole = [as_codec(method).compress(*parts, 0.4) for method in ("d2o", "ems")]
    monkeypatch.setattr("rag.kvcache.compress.groups._BLOCK", 100)
    for method, expected in zip(("d2o", "ems"), whole, strict=True):
        got = as_codec(method).compress(*parts, 0.4)
        assert torch.equal(got.positions, expected.positions)
        assert torch.allclose(got.keys, expected.keys, atol=1e-6)
