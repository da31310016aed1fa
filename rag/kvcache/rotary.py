"""How a layer's keys depend on their position, found by measuring, and keys freed of it and given a new one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Rotation", "frequencies", "matching_rotation"]


@dataclass(frozen=True, eq=False)
class Rotation:
    """Rotary position embedding (RoFormer, arXiv:2104.09864, section 3.2) of one layer's keys.

    Dimensions [first, first + 2 len(inv_freq)) of a key turn in pairs, pair j by position * inv_freq[j]. A pair is
    (j, j + len) in the style `half` (Llama, NeoX), (2j, 2j + 1) in `interleaved` (GPT-J, GLM, Cohere). Angles are
    computed in float32 as the models do: a key turned back and turned again is then exact up to rounding, while the
    difference of two angles would be off by what both have lost. A constant factor on all keys (YaRN) stays on them.
    """

    style: Literal["half", "interleaved"]
    inv_freq: Any
    first: int = 0

    def apply(self, keys: Any, positions: Any) -> Any:
        """Keys [..., n, d] without positions as keys at `positions` [n]; a new tensor of the same dtype."""
        return self._turn(keys, positions, 1)

    def remove(self, keys: Any, positions: Any) -> Any:
        """Keys at `positions` as keys without positions; a new tensor."""
        return self._turn(keys, positions, -1)

    def _turn(self, keys: Any, positions: Any, direction: int) -> Any:
        angles = positions.float()[:, None] * self.inv_freq.to(keys.device)
        cos, sin = angles.cos(), angles.sin() * direction
        pairs = angles.shape[1]
        turned = keys.clone()
        part = keys[..., self.first : self.first + 2 * pairs].float()
        into = turned[..., self.first : self.first + 2 * pairs]
        if self.style == "half":
            a, b, to_a, to_b = part[..., :pairs], part[..., pairs:], into[..., :pairs], into[..., pairs:]
        else:
            a, b, to_a, to_b = part[..., 0::2], part[..., 1::2], into[..., 0::2], into[..., 1::2]
        to_a.copy_(a * cos - b * sin)
        to_b.copy_(b * cos + a * sin)
        return turned


def frequencies(model: Any) -> list[Any]:
    """Every set of inverse frequencies that a model's modules hold, float32[pairs], without duplicates.

    They are the buffers named `inv_freq` (scaling such as linear or llama3 is in them already), and the tables of
    sines and cosines of models like GPT-J, whose row 1 holds the angles of one step.
    """
    import torch

    found: list[Any] = []
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq") and buffer.dim() == 1:
            candidate = buffer.detach().float()
        elif name.endswith("embed_positions") and buffer.dim() == 2 and len(buffer) > 1:
            sin, cos = buffer[1].detach().double().chunk(2)
            candidate = torch.atan2(sin, cos).float()
        else:
            continue
        if not any(len(candidate) == len(other) and bool((candidate == other).all()) for other in found):
            found.append(candidate)
    return found


def matching_rotation(
    at_zero: Any, moved: Sequence[tuple[int, Any]], candidates: Iterable[Any], tolerance: float
) -> Rotation | Literal["unknown"] | None:
    """The rotation that takes the keys of single tokens at position 0 to those at each of several positions.

    Args:
        at_zero: keys float[tokens, heads, d], each token alone in its prompt: what a layer sees of it then does not
            depend on the position, so its keys differ by the position alone.
        moved: positions and the keys of the same tokens there.
        candidates: inverse frequencies, float32[pairs] each.
        tolerance: largest difference, relative to the largest key.

    Returns None where the keys do not depend on positions (NoPE), "unknown" where no candidate explains them.
    """
    import torch

    limit = tolerance * max(float(at_zero.abs().max()), 1e-30)

    def agrees(rotation: Rotation | None) -> bool:
        for position, keys in moved:
            where = torch.tensor([position], device=keys.device)
            expected = at_zero if rotation is None else rotation.apply(at_zero[..., None, :], where)[..., 0, :]
            if not float((expected.float() - keys.float()).abs().max()) <= limit:
                return False
        return True

    if agrees(None):
        return None
    width = at_zero.shape[-1]
    for inv_freq in candidates:
        free = width - 2 * len(inv_freq)
        for first in {0, free} if free >= 0 else ():
            for style in ("half", "interleaved"):
                if agrees(rotation := Rotation(style, inv_freq, first)):
                    return rotation
    return "unknown"
