"""The transformer of a BERT-family checkpoint on the native engine: which it can run, and its weights."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rag.encoders.checkpoint import Checkpoint
from rag.encoders.weights import map_safetensors
from rag.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from rag._native import TransformerEncoder

__all__ = ["NativeTransformer", "cores", "read_tokenizer", "unsupported_transformer"]


class NativeTransformer:
    """A checkpoint's transformer. Weights are read on first use; safe to call from several threads.

    Raises ModelError for a checkpoint of another form, and for weights that do not fit its configuration.
    """

    # Tokens a call works on for each thread: about half a second, so that Ctrl-C and progress stay prompt.
    _TOKENS_A_CALL = 4096

    def __init__(self, checkpoint: Checkpoint, *, threads: int = 0) -> None:
        """`threads` 0 means all cores this process may use."""
        if reason := unsupported_transformer(checkpoint):
            raise ModelError(f"{str(checkpoint.folder)!r} cannot run without torch: {reason}")
        self.checkpoint = checkpoint
        self.threads = threads or cores()
        self._lock = threading.Lock()
        self._model: TransformerEncoder | None = None

    @property
    def tokens_a_call(self) -> int:
        """How many tokens a call should have at least, to be worth it."""
        return self._TOKENS_A_CALL * self.threads

    @property
    def model(self) -> TransformerEncoder:
        with self._lock:
            if self._model is None:
                self._model = _read_model(self.checkpoint)
            return self._model

    def vectors(self, ids: Sequence[Sequence[int] | NDArray[np.int32]], pooling: str) -> NDArray[np.float32]:
        """float32[texts, width], unit vectors of texts that have one token or more; `pooling` mean or cls."""
        return self.model.encode(*_packed(ids), pooling, self.threads)

    def states(
        self, ids: Sequence[Sequence[int] | NDArray[np.int32]], pooling: str, attended: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What `vectors` gives, and the last states of all tokens, float32[tokens, width], not normalised.

        The tokens of text i attend to its first `attended[i]` tokens.
        """
        return self.model.encode_with_states(*_packed(ids), pooling, self.threads, np.array(attended, np.int64))


def unsupported_transformer(checkpoint: Checkpoint) -> str:
    """Why the native engine cannot run a checkpoint's transformer; empty when it can."""
    config = checkpoint.config
    heads = int(config.get("num_attention_heads") or 1)
    checks = {
        f"model type {config.get('model_type')!r}": config.get("model_type") in ("bert", "roberta", "xlm-roberta"),
        f"activation {config.get('hidden_act')!r}": config.get("hidden_act") == "gelu",
        "relative positions": config.get("position_embedding_type", "absolute") == "absolute",
        "a decoder": not config.get("is_decoder"),
        "the size of its attention heads": int(config.get("hidden_size") or 1) % (32 * heads) == 0,
        "the width of its feed-forward layers": int(config.get("intermediate_size") or 1) % 32 == 0,
        "no tokenizer.json": (checkpoint.root / "tokenizer.json").is_file(),
        "no model.safetensors": (checkpoint.root / "model.safetensors").is_file(),
    }
    return ", ".join(reason for reason, good in checks.items() if not good)


def read_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of a checkpoint, without padding and truncation of its own; ModelError when it cannot be read."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(checkpoint.root / "tokenizer.json"))
    except Exception as error:
        raise ModelError(f"the tokenizer of {str(checkpoint.folder)!r} cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _packed(texts: Sequence[Sequence[int] | NDArray[np.int32]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Token ids one behind the other, and where each text begins."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(ids) for ids in texts], out=offsets[1:])
    return np.concatenate([np.asarray(ids, np.int32) for ids in texts]), offsets


def _read_model(checkpoint: Checkpoint) -> TransformerEncoder:
    from rag._native import TransformerEncoder

    path = checkpoint.root / "model.safetensors"
    tensors = map_safetensors(path)
    config = checkpoint.config
    table = "embeddings.word_embeddings.weight"
    prefix = next((name[: -len(table)] for name in tensors if name.endswith(table)), "")

    def take(name: str) -> NDArray[Any]:
        try:
            return tensors[prefix + name]
        except KeyError:
            raise ModelError(f"{str(path)!r} has no tensor {prefix + name!r}") from None

    positions = take("embeddings.position_embeddings.weight")
    if config["model_type"] != "bert":
        positions = positions[int(config.get("pad_token_id", 1)) + 1 :]
    try:
        model = TransformerEncoder(
            words=take(table),
            positions=positions + take("embeddings.token_type_embeddings.weight")[0],
            gain=take("embeddings.LayerNorm.weight"),
            shift=take("embeddings.LayerNorm.bias"),
            heads=int(config["num_attention_heads"]),
            eps=float(config["layer_norm_eps"]),
        )
        for i in range(int(config["num_hidden_layers"])):
            model.add_layer(
                *(take(f"encoder.layer.{i}.{part}.{kind}") for part in _PARTS for kind in ("weight", "bias"))
            )
    except ValueError as error:
        raise ModelError(f"{str(path)!r} does not fit its config.json: {error}") from None
    return model


_PARTS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
