"""Token states by torch, for transformers that the native engine does not run."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.encoders.checkpoint import Checkpoint
from rag.errors import MissingExtraError, ModelError

__all__ = ["TorchTransformer"]

_TEXTS_A_BATCH = 32


class TorchTransformer:
    """A checkpoint's transformer as transformers loads it (extra `local`), on the device that torch finds.

    Raises MissingExtraError without transformers, ModelError when it cannot load the checkpoint.
    """

    tokens_a_call = 16_384  # enough texts to sort by length, few enough for prompt progress

    def __init__(self, checkpoint: Checkpoint, *, threads: int = 0, model: Any = None) -> None:
        """`model` is a loaded transformer to use instead; `threads` 0 leaves torch's own setting, which is global."""
        self.checkpoint = checkpoint
        self._lock = threading.Lock()
        self._model = model if model is not None else _load(checkpoint, threads)

    def states(
        self, ids: Sequence[NDArray[np.int32]], pooling: str, attended: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pooled unit vectors float32[texts, width], and the last states of all tokens, float32[tokens, width].

        The tokens of text i attend to its first `attended[i]` tokens; `pooling` is mean or cls.
        """
        import torch

        found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(ids)
        longest_first = np.argsort([-len(text) for text in ids], kind="stable")
        padding = int(self.checkpoint.config.get("pad_token_id") or 0)
        for start in range(0, len(ids), _TEXTS_A_BATCH):
            rows = longest_first[start : start + _TEXTS_A_BATCH]
            width = len(ids[rows[0]])
            tokens = np.full((len(rows), width), padding, np.int64)
            mask = np.zeros((len(rows), width), np.int64)
            for row, text in enumerate(rows):
                tokens[row, : len(ids[text])] = ids[text]
                mask[row, : attended[text]] = 1
            device = self._model.device
            try:
                with self._lock, torch.inference_mode():
                    output = self._model(
                        input_ids=torch.from_numpy(tokens).to(device),
                        attention_mask=torch.from_numpy(mask).to(device),
                    )
                states = output.last_hidden_state.float().cpu().numpy()
            except RuntimeError as error:  # out of memory, for one
                raise ModelError(f"encoder {str(self.checkpoint.folder)!r} failed: {error}") from error
            for row, text in enumerate(rows):
                found[text] = states[row, : len(ids[text])]
        pooled = np.stack([text.mean(0) if pooling == "mean" else text[0] for text in found])
        pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        return pooled, np.concatenate(found)


def _load(checkpoint: Checkpoint, threads: int) -> Any:
    try:
        import torch
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError(f"the encoder {str(checkpoint.folder)!r}", "local") from error
    if threads:
        torch.set_num_threads(threads)
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model, report = AutoModel.from_pretrained(str(checkpoint.root), output_loading_info=True)
    except Exception as error:
        raise ModelError(f"transformers cannot load {str(checkpoint.root)!r}: {error}") from error
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
    # A head for classification may be missing; what makes token states may not.
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith("pooler.")):
        raise ModelError(f"{str(checkpoint.root)!r} lacks weights: {', '.join(missing[:5])}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.float().to(device).eval()
