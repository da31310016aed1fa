"""States as bytes and back: as they were computed, in 16 bits, or in 8."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rag.errors import ConfigError, did_you_mean
from rag.kvcache.entry import Bytes, Unreadable, layout
from rag.kvcache.store import SegmentStates, StateKey

__all__ = ["Codec", "check_codec", "decode", "encode"]

Codec: TypeAlias = Literal["computed", "float16", "bfloat16", "int8"]
"""How states are kept: with the bits they were computed with, or rounded."""

_KINDS = ("float64", "float32", "float16", "bfloat16", "uint8")
_BYTES: dict[Codec, int] = {"computed": 8, "float16": 2, "bfloat16": 2, "int8": 1}
_KEY_AXIS, _VALUE_AXIS = 1, 2
"""What shares a scale in 8 bits: of keys a channel over all tokens, of values a token over all channels (KIVI,
arXiv:2402.02750, section 3). Channels of keys differ much, and tokens in one channel little."""


def check_codec(codec: str) -> None:
    """ConfigError for an unknown codec."""
    if codec not in get_args(Codec):
        raise ConfigError(f"no codec {codec!r} for keys and values", hint=did_you_mean(codec, get_args(Codec)))


def encode(states: SegmentStates, codec: Codec) -> tuple[dict[str, Any], list[Bytes]]:
    """A head of JSON values that says all but the numbers, and the numbers as parts of bytes.

    States with numbers that a codec cannot hold (beyond 65504 in float16, or not finite in 8 bits) are kept as they
    were computed; so are those whose numbers take no more bytes already.
    """
    tensors: list[Any] = []
    chosen: Codec = "computed" if _BYTES[codec] >= states.keys[0].element_size() else codec
    for keys, values in zip(states.keys, states.values, strict=True):
        if chosen != "computed":
            coded = [*_coded(keys, chosen, _KEY_AXIS), *_coded(values, chosen, _VALUE_AXIS)]
            if all(bool(part.isfinite().all()) for part in coded):
                tensors += coded
                continue
            return encode(states, "computed")
        tensors += [keys, values]
    head = {
        "segment": states.key.segment,
        "context": states.key.context,
        "model": states.model,
        "codec": chosen,
        "dtype": str(states.keys[0].dtype).removeprefix("torch."),
        "rounded": states.rounded or chosen != "computed",
        "checksum": states.checksum,
        "tensors": [[str(part.dtype).removeprefix("torch."), list(part.shape)] for part in tensors],
        "extra": [[name, array.dtype.str, list(array.shape)] for name, array in states.extra.items()],
    }
    extra = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in states.extra.values()]
    return head, [_bytes(part) for part in tensors] + extra


def decode(head: Mapping[str, Any], data: Bytes) -> SegmentStates:
    """The states that `encode` made these of, in the type they were computed in, without a copy where not rounded.

    Raises Unreadable where head and data do not go together.
    """
    try:
        return _decode(head, data)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise Unreadable(f"its head and its data do not go together: {error!r}") from error


def _decode(head: Mapping[str, Any], data: Bytes) -> SegmentStates:
    import torch

    kinds = {kind: getattr(torch, kind) for kind in _KINDS}
    sizes = [kinds[kind].itemsize * math.prod(shape) for kind, shape in head["tensors"]]
    sizes += [np.dtype(kind).itemsize * math.prod(shape) for _, kind, shape in head["extra"]]
    places, end = layout(sizes)
    if end != len(data):
        raise Unreadable(f"it has {len(data)} bytes of data, its head says {end}")
    whole = {kind: torch.frombuffer(data, dtype=kinds[kind]) for kind, _ in head["tensors"]}
    parts = [
        whole[kind].as_strided(shape, _strides(shape), at // kinds[kind].itemsize)
        for at, (kind, shape) in zip(places, head["tensors"], strict=False)
    ]
    extra: dict[str, NDArray[Any]] = {}
    for (name, kind, shape), at, size in zip(head["extra"], places[len(parts) :], sizes[len(parts) :], strict=True):
        extra[name] = data[at : at + size].view(np.dtype(kind)).reshape(shape)
    codec, dtype = head["codec"], kinds[head["dtype"]]
    each = 3 if codec == "int8" else 1
    decoded = [_decoded(parts[at : at + each], dtype) for at in range(0, len(parts), each)]
    return SegmentStates(
        StateKey(head["segment"], head["context"]),
        head["model"],
        tuple(decoded[0::2]),
        tuple(decoded[1::2]),
        checksum=head["checksum"] if codec == "computed" else -1,
        extra=extra,
        rounded=head["rounded"],
    )


def _coded(tensor: Any, codec: Codec, axis: int) -> Sequence[Any]:
    """A tensor [heads, tokens, d] in 16 bits; or in 8, with what code 0 and a step stand for along an axis."""
    import torch

    if codec != "int8":
        return [tensor.to(getattr(torch, codec))]
    wide = tensor.float()
    low, high = wide.amin(axis, keepdim=True), wide.amax(axis, keepdim=True)
    step = ((high - low) / 255).clamp_min(torch.finfo(torch.float32).tiny)
    return [((wide - low) / step).round_().to(torch.uint8), low, step]


def _decoded(parts: Sequence[Any], dtype: Any) -> Any:
    if len(parts) == 1:
        return parts[0].to(dtype)
    codes, low, step = parts
    return (codes.float().mul_(step).add_(low)).to(dtype)


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _bytes(tensor: Any) -> Bytes:
    import torch

    flat: Bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat
