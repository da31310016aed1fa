"""Rotations of keys against complex numbers in float64, and how they are told apart."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.kvcache.rotary import Rotation, matching_rotation

pytestmark = pytest.mark.torch

STYLES = ["half", "interleaved"]


def turned(keys: Any, positions: Any, style: str, inv_freq: Any, first: int) -> Any:
    """The pairs as complex numbers, multiplied by exp(i * position * frequency)."""
    out = keys.astype(np.float64)
    pairs = len(inv_freq)
    index = np.arange(pairs)
    a, b = (index, index + pairs) if style == "half" else (2 * index, 2 * index + 1)
    turn = (out[..., first + a] + 1j * out[..., first + b]) * np.exp(1j * np.outer(positions, inv_freq))
    out[..., first + a], out[..., first + b] = turn.real, turn.imag
    return out


@given(
    st.sampled_from(STYLES), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.integers(0, 400), st.integers()
)
def test_keys_are_turned(torch: ModuleType, style: Any, pairs: int, before: int, behind: int, start: int, seed: int):
    draw = np.random.default_rng(abs(seed))
    keys = draw.normal(size=(2, 5, before + 2 * pairs + behind)).astype(np.float32)
    inv_freq = (1.0 / 100 ** (np.arange(pairs) / pairs)).astype(np.float32)
    rotation = Rotation(style, torch.from_numpy(inv_freq), before)
    where = torch.arange(start, start + 5)
    given_keys = torch.from_numpy(keys)
    moved = rotation.apply(given_keys, where)
    assert moved.numpy() == pytest.approx(turned(keys, where.numpy(), style, inv_freq, before), abs=2e-4)
    assert given_keys.numpy().tolist() == keys.tolist()
    assert rotation.remove(moved, where).numpy() == pytest.approx(keys, abs=1e-6)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("width", "first"), [(8, 0), (12, 0), (12, 4)])
def test_the_rotation_is_found_among_others(torch: ModuleType, style: str, width: int, first: int):
    draw = np.random.default_rng(0)
    keys = draw.normal(size=(6, 2, width)).astype(np.float32)
    right, slow, short = (np.array(f, np.float32) for f in ([1, 0.2, 0.05, 0.01], [1, 0.2, 0.05, 0.0099], [1, 0.1]))
    moved = [
        (place, torch.from_numpy(turned(keys[:, :, None], [place], style, right, first)[:, :, 0]).float())
        for place in (1, 23, 500)
    ]
    candidates = [torch.from_numpy(f) for f in (slow, short, right)]
    found = matching_rotation(torch.from_numpy(keys), moved, candidates, 1e-4)
    assert isinstance(found, Rotation)
    assert (found.style, found.inv_freq.tolist(), found.first) == (style, right.tolist(), first)
    assert matching_rotation(torch.from_numpy(keys), moved, candidates[:2], 1e-4) == "unknown"
    still = [(place, torch.from_numpy(keys)) for place in (1, 23, 500)]
    assert matching_rotation(torch.from_numpy(keys), still, candidates, 1e-4) is None
