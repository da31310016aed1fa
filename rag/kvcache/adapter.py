"""What the manager has to know of a model: how its layers keep keys, what they see, how to run a part of a prompt."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass
from typing import Any, TypeAlias

from rag.errors import ModelError
from rag.kvcache.bits import bit_sum
from rag.kvcache.rotary import Rotation, frequencies, matching_rotation

__all__ = [
    "WRAPPED",
    "ModelAdapter",
    "Unsupported",
    "adapter_of",
    "fingerprint",
    "kernel_of",
    "only_last_logits",
    "tolerance",
]

Shape: TypeAlias = tuple[int, int, int]

_KINDS = {"full_attention", "sliding_attention"}
_GROWING = ("dynamic", "longrope")
"""RoPE types whose frequencies change with the length of the prompt: keys of one length are wrong in another one."""
_TOLERANCE = {"torch.float32": 1e-4, "torch.float64": 1e-4, "torch.float16": 2e-2, "torch.bfloat16": 1e-1}
_SAMPLE = 8
WRAPPED = "rag_"
"""Before the name of an attention function that `rag.kvcache.attention` has wrapped."""


class Unsupported(Exception):  # noqa: N818  # not an error: the manager goes another way
    """Why parts of prompts cannot be reused with this model."""


@dataclass(frozen=True, eq=False)
class ModelAdapter:
    """A causal transformers model whose prompts can be put together from parts.

    windows: for each layer how many positions a token sees, itself included, or None for all. layer_types: names of
    the layers' masks where the model takes one for each, else None. rotations: for each layer how its keys carry
    positions, None for not at all. shapes: for each layer heads, dimension of a key, dimension of a value. immovable:
    why keys cannot be moved, or an empty string; `rotations` then are all None and keys stay as they are.
    """

    model: Any
    windows: tuple[int | None, ...]
    layer_types: tuple[str, ...] | None
    rotations: tuple[Rotation | None, ...]
    shapes: tuple[Shape, ...]
    immovable: str = ""

    @property
    def device(self) -> Any:
        return self.model.device

    @property
    def dtype(self) -> Any:
        return self.model.dtype

    @property
    def check_layer(self) -> int:
        """The first layer behind one with full attention, or the last layer."""
        full = self.windows.index(None) if None in self.windows else 0
        return min(full + 1, len(self.windows) - 1)

    def forward(self, tokens: Any, positions: Any, cache: Any, mask: Any) -> Any:
        """Run tokens int64[n] at positions int64[n] over a cache; float32[vocabulary], the logits of the last one."""
        settings = only_last_logits(self.model)
        if "position_ids" in _parameters(self.model):
            settings["position_ids"] = positions[None]
        output = self.model(
            input_ids=tokens[None], past_key_values=cache, attention_mask=mask, use_cache=True, **settings
        )
        return output.logits[0, -1].float()


def adapter_of(model: Any) -> ModelAdapter:
    """Look at a model's configuration and modules, and measure how its keys depend on their position.

    Raises Unsupported with the reason. What it returns is not tested yet, see `rag.kvcache.selftest`.
    """
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    config = model.config.get_text_config()
    _refuse_growing(model)
    if str(model.dtype) not in _TOLERANCE:
        raise Unsupported(f"it computes in {model.dtype}")
    layers = DynamicCache(config=model.config).layers
    windows: list[int | None] = []
    for number, layer in enumerate(layers):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise Unsupported(f"layer {number} keeps something else than keys and values ({type(layer).__name__})")
        windows.append(getattr(layer, "sliding_window", None))
    kinds = getattr(config, "layer_types", None)
    if unknown := set(kinds or ()) - _KINDS:
        raise Unsupported(f"its layers attend in a way that is not known here ({', '.join(sorted(unknown))})")
    with torch.no_grad():
        shapes, keys = _single_tokens(model, len(layers), 0)
        rotations, immovable = _rotations(model, keys)
    return ModelAdapter(
        model, tuple(windows), tuple(kinds) if kinds else None, tuple(rotations), tuple(shapes), immovable
    )


def fingerprint(model: Any) -> str:
    """Hex SHA-256 of what a model computes with: class, configuration, data type, and every weight's bits in sums.

    A model with other weights, an adapter, another RoPE setting or attention kernel has another one.
    """
    settings = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "use_cache"):
        settings.pop(name, None)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(f"{type(model).__name__}\0{kernel_of(model)}\0".encode())
    for name, weight in (*model.named_parameters(), *model.named_buffers()):  # tied weights come once
        sums = (bit_sum(weight), bit_sum(weight, 7))
        digest.update(f"{name}\0{weight.dtype}\0{tuple(weight.shape)}\0{sums}\0".encode())
    return digest.hexdigest()


def kernel_of(model: Any) -> str:
    """The name of a model's attention function, such as `sdpa`, also while it is wrapped."""
    return str(model.config.get_text_config()._attn_implementation).removeprefix(WRAPPED)


def only_last_logits(model: Any) -> dict[str, Any]:
    """The argument that spares a forward pass all logits but the last ones, where the model knows it."""
    return {"logits_to_keep": 1} if "logits_to_keep" in _parameters(model) else {}


def tolerance(dtype: Any) -> float:
    """How far two computations of the same numbers may be apart, relative to the largest."""
    return _TOLERANCE[str(dtype)]


def _refuse_growing(model: Any) -> None:
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        for kind in kinds.values() if isinstance(kinds, dict) else [kinds]:
            if isinstance(kind, str) and any(growing in kind for growing in _GROWING):
                raise Unsupported(f"its RoPE is {kind!r}: the keys of a chunk depend on the length of the prompt")


def _rotations(model: Any, keys: list[Any]) -> tuple[list[Rotation | None], str]:
    """How each layer's keys carry positions; or None for all of them, and why they cannot be moved."""
    fixed: list[Rotation | None] = [None] * len(keys)
    if "position_ids" not in _parameters(model):
        return fixed, "the model does not take positions"
    far = min(_context(model), 1 << 17) - 1
    places = sorted({1, min(23, far), far})
    moved = [(place, _single_tokens(model, len(keys), place)[1]) for place in places]
    candidates = frequencies(model)
    found: list[Rotation | None] = []
    for number, at_zero in enumerate(keys):
        there = [(place, layers[number]) for place, layers in moved]
        rotation = matching_rotation(at_zero, there, candidates, tolerance(model.dtype))
        if rotation == "unknown":
            return fixed, f"no rotation explains how the keys of layer {number} depend on positions"
        found.append(rotation)
    return found, ""


def _single_tokens(model: Any, layers: int, position: int) -> tuple[list[Shape], list[Any]]:
    """Shapes of each layer's keys and values, and keys [tokens, heads, d] of tokens each alone at a position."""
    import torch
    from transformers import DynamicCache

    vocabulary = model.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, vocabulary, (_SAMPLE, 1), generator=draw).to(model.device)
    cache = DynamicCache()
    settings = {}
    if "position_ids" in _parameters(model):
        settings["position_ids"] = torch.full_like(tokens, position)
    model(input_ids=tokens, past_key_values=cache, use_cache=True, **settings)
    if len(cache.layers) != layers:
        raise Unsupported(f"{len(cache.layers)} of its {layers} layers keep keys and values")
    shapes = []
    for number, layer in enumerate(cache.layers):
        if layer.keys is None or layer.keys.shape[-2] != 1:
            raise Unsupported(f"layer {number} keeps no keys of its own")
        shapes.append((layer.keys.shape[1], layer.keys.shape[-1], layer.values.shape[-1]))
    return shapes, [layer.keys[:, :, 0] for layer in cache.layers]


def _context(model: Any) -> int:
    config = model.config.get_text_config()
    for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if isinstance(found := getattr(config, key, None), int):
            return found
    return 2048


def _parameters(model: Any) -> Any:
    if not hasattr(model, "forward"):
        raise ModelError(f"{type(model).__name__} is not a transformers model")
    return inspect.signature(model.forward).parameters
