"""Checksums of tensors where they lie, at the speed of memory."""

from __future__ import annotations

from typing import Any

__all__ = ["bit_sum"]


def bit_sum(tensor: Any, step: int = 1) -> int:
    """The sum of a tensor's bits as whole numbers of 64 bits, of every `step`-th one; wraps around.

    Any one change is seen; it is no defence against forgery.
    """
    import torch

    flat = tensor.detach().contiguous().reshape(-1)
    if flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()
    octets = flat.view(torch.uint8)
    words = octets[: len(octets) // 8 * 8].view(torch.int64)
    rest = octets[len(octets) // 8 * 8 :]
    return int(words[::step].sum()) + int(rest.sum())
