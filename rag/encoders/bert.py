"""BERT-family encoders on the native engine: no torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rag.encoders.checkpoint import Checkpoint
from rag.encoders.texts import check_texts
from rag.encoders.weights import map_safetensors
from rag.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from rag._native import TransformerEncoder

__all__ = ["BertEncoder"]

# Tokens a native call works on for each thread: about half a second, so that Ctrl-C and progress stay prompt.
_TOKENS_A_CALL = 4096
_TEXTS_A_TURN = 512


class BertEncoder:
    """A BERT, RoBERTa or XLM-RoBERTa checkpoint with mean or CLS pooling, as unit vectors.

    Devlin et al. 2019 (arXiv:1810.04805); Reimers and Gurevych 2019 (arXiv:1908.10084). A text's vector is bit for bit
    the same whatever texts it is encoded with and on however many threads. Weights are read on first use.

    Raises ModelError when the checkpoint has a form that only sentence-transformers can run.
    """

    def __init__(self, checkpoint: Checkpoint, *, name: str | None = None, threads: int = 0) -> None:
        """`threads` 0 means all cores this process may use; `name` defaults to the checkpoint's folder."""
        if reason := unsupported(checkpoint):
            raise ModelError(f"{str(checkpoint.folder)!r} cannot run without torch: {reason}")
        self.checkpoint = checkpoint
        self.name = name or str(checkpoint.folder)
        self.threads = threads or _cores()
        self._lock = threading.Lock()
        self._loaded: tuple[TransformerEncoder, Tokenizer] | None = None

    def __repr__(self) -> str:
        return f"BertEncoder({self.name!r})"

    @property
    def dim(self) -> int:
        return int(self.checkpoint.config["hidden_size"])

    @property
    def max_tokens(self) -> int:
        return self.checkpoint.max_tokens

    @cached_property
    def fingerprint(self) -> str:
        return self.checkpoint.fingerprint()

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[n, dim], one unit vector a text, each behind the checkpoint's query prompt."""
        return self._encode(check_texts(texts), self.checkpoint.query_prompt, None)

    def encode_documents(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        """float32[n, dim], one unit vector a text; `progress` is called with the number of texts done since last."""
        return self._encode(check_texts(texts), self.checkpoint.document_prompt, progress)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, uncut and without special tokens."""
        return [len(e) for e in self._counter.encode_batch_fast(check_texts(texts), add_special_tokens=False)]

    def _encode(self, texts: list[str], prompt: str, progress: Callable[[int], None] | None) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dim), np.float32)
        if not texts:
            return vectors
        model, tokenizer = self._load()
        done = 0
        for tokens in self._turns(texts, prompt, tokenizer):
            offsets = np.zeros(len(tokens) + 1, np.int64)
            np.cumsum([len(t) for t in tokens], out=offsets[1:])
            ids = np.concatenate([np.asarray(t, np.int32) for t in tokens])
            vectors[done : done + len(tokens)] = model.encode(ids, offsets, self.checkpoint.pooling, self.threads)
            done += len(tokens)
            if progress is not None:
                progress(len(tokens))
        return vectors

    def _turns(self, texts: list[str], prompt: str, tokenizer: Tokenizer) -> Iterator[list[list[int]]]:
        """Token ids of the texts, in order, in lists that one native call works on."""
        turn: list[list[int]] = []
        size = 0
        for start in range(0, len(texts), _TEXTS_A_TURN):
            some = [prompt + text for text in texts[start : start + _TEXTS_A_TURN]]
            for encoding in tokenizer.encode_batch_fast(some):
                turn.append(encoding.ids)
                size += len(encoding.ids)
                if size >= _TOKENS_A_CALL * self.threads:
                    yield turn
                    turn, size = [], 0
        if turn:
            yield turn

    @cached_property
    def _counter(self) -> Tokenizer:
        tokenizer = _tokenizer(self.checkpoint)
        tokenizer.no_truncation()
        return tokenizer

    def _load(self) -> tuple[TransformerEncoder, Tokenizer]:
        with self._lock:
            if self._loaded is None:
                tokenizer = _tokenizer(self.checkpoint)
                tokenizer.enable_truncation(self.max_tokens)
                self._loaded = _native_model(self.checkpoint), tokenizer
            return self._loaded


def unsupported(checkpoint: Checkpoint) -> str:
    """Why BertEncoder cannot run a checkpoint; empty when it can."""
    config = checkpoint.config
    heads = int(config.get("num_attention_heads") or 1)
    checks = {
        f"model type {config.get('model_type')!r}": config.get("model_type") in ("bert", "roberta", "xlm-roberta"),
        f"activation {config.get('hidden_act')!r}": config.get("hidden_act") == "gelu",
        "relative positions": config.get("position_embedding_type", "absolute") == "absolute",
        "lower-casing outside the tokenizer": not checkpoint.lower_case,
        "a decoder": not config.get("is_decoder"),
        f"pooling {checkpoint.pooling!r}": checkpoint.pooling in ("mean", "cls"),
        f"modules {[kind for _, kind in checkpoint.modules]}": not checkpoint.modules,
        "the size of its attention heads": int(config.get("hidden_size") or 1) % (32 * heads) == 0,
        "the width of its feed-forward layers": int(config.get("intermediate_size") or 1) % 32 == 0,
        "no tokenizer.json": (checkpoint.root / "tokenizer.json").is_file(),
        "no model.safetensors": (checkpoint.root / "model.safetensors").is_file(),
    }
    return ", ".join(reason for reason, good in checks.items() if not good)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(checkpoint.root / "tokenizer.json"))
    except Exception as error:
        raise ModelError(f"the tokenizer of {str(checkpoint.folder)!r} cannot be read: {error}") from error
    tokenizer.no_padding()
    return tokenizer


def _native_model(checkpoint: Checkpoint) -> TransformerEncoder:
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
