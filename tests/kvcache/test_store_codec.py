"""States through the bytes of each codec and back, against arithmetic in float64."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import ConfigError
from rag.kvcache import DiskStore, SegmentStates
from rag.kvcache.codec import Codec, decode, encode
from rag.kvcache.entry import Unreadable, layout
from tests.kvcache.made import SHAPES, equal, made

pytestmark = pytest.mark.torch

EXTRA = {"score": np.linspace(0, 1, 7, dtype=np.float32), "order": np.arange(6).reshape(2, 3), "one": np.array(2.5)}


def through(states: SegmentStates, codec: Codec) -> SegmentStates:
    head, parts = encode(states, codec)
    places, end = layout([len(part) for part in parts])
    data = np.zeros(end, np.uint8)
    for place, part in zip(places, parts, strict=True):
        data[place : place + len(part)] = part
    return decode(head, data)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("codec", get_args(Codec))
def test_what_comes_back(torch: ModuleType, codec: Codec, dtype: str):
    states = made(1, 9, dtype=dtype, extra=EXTRA)
    back = through(states, codec)
    assert back.fault(states.key, "m", SHAPES, 9, getattr(torch, dtype)) == ""
    assert {name: (array.dtype, array.shape, array.tolist()) for name, array in back.extra.items()} == {
        name: (array.dtype, array.shape, array.tolist()) for name, array in EXTRA.items()
    }
    same = codec == "computed" or (codec.endswith("16") and dtype.endswith("16"))
    assert back.rounded != same
    assert equal(back, states) == same
    assert not same or back.checksum == states.checksum
    again = through(back, "computed")
    assert equal(again, back)
    assert again.rounded == back.rounded


@pytest.mark.parametrize(("codec", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_16_bits_round_to_the_nearest(torch: ModuleType, codec: Codec, bits: int):
    states = made(2, 50)
    for part, back in zip(states.keys, through(states, codec).keys, strict=True):
        assert float(((back - part).abs() / part.abs()).max()) <= 2.0**-bits


@given(st.integers(1, 20), st.integers(0, 99), st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_8_bits_are_within_half_a_step(torch: ModuleType, tokens: int, seed: int, scale: float, offset: float):
    states = made(3, tokens, seed)
    parts = [tuple(part * scale + offset for part in side) for side in (states.keys, states.values)]
    states = SegmentStates(states.key, "m", *parts)
    back = through(states, "int8")
    for side, axis in (("keys", 1), ("values", 2)):
        for part, found in zip(getattr(states, side), getattr(back, side), strict=True):
            exact, got = part.double().numpy(), found.double().numpy()
            step = np.ptp(exact, axis=axis, keepdims=True) / 255
            assert (abs(got - exact) <= step / 2 + 1e-5 * np.abs(exact).max()).all()


@pytest.mark.parametrize(("codec", "value"), [("float16", 1e6), ("int8", float("inf")), ("bfloat16", float("nan"))])
def test_what_a_codec_cannot_hold_is_kept_as_computed(torch: ModuleType, codec: Codec, value: float):
    states = made(4)
    states.values[1][0, 2, 1] = value
    states = replace(states, checksum=-1)
    back = through(states, codec)
    assert not back.rounded
    assert back.checksum == states.checksum
    assert back.fault(states.key, "m", SHAPES, 5, torch.float32) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": [["float32", [1, 5, 4]]]},
        {"tensors": [["float32", [1, 5, -4]]] * 4},
        {"tensors": [["set_num_threads", [1, 5, 4]]] * 4},
        {"dtype": "load"},
        {"extra": [["a", "|O", [1]]]},
        {"extra": 5},
        {"segment": None, "tensors": []},
    ],
    ids=str,
)
def test_a_head_that_does_not_fit_is_refused(torch: ModuleType, change: dict[str, Any]):
    head, parts = encode(made(1), "computed")
    with pytest.raises(Unreadable):
        decode(head | change, np.concatenate([np.pad(part, (0, -len(part) % 64)) for part in parts]))


def test_an_unknown_codec_is_named(tmp_path: Any):
    with pytest.raises(ConfigError, match="'int4'"):
        DiskStore(tmp_path, codec="int4")  # type: ignore[arg-type]
