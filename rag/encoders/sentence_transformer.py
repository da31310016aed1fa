"""Any sentence-transformers checkpoint, run by that library (extra `local`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.encoders.checkpoint import Checkpoint
from rag.encoders.texts import check_texts
from rag.errors import MissingExtraError, ModelError

__all__ = ["SentenceTransformerEncoder"]

_TEXTS_A_TURN = 512


class SentenceTransformerEncoder:
    """A checkpoint with whatever modules it has, as unit vectors, on the device that torch finds.

    Texts are batched by length. The checkpoint's "query" and "document" prompts are put before the texts. The
    fingerprint is that of the files, so it equals that of `BertEncoder` for the same checkpoint, and so do the vectors
    (cosine >= 0.9999). Reimers and Gurevych 2019 (arXiv:1908.10084).

    Raises MissingExtraError without sentence-transformers, ModelError when the library cannot load the checkpoint.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, name: str | None = None, threads: int = 0, batch_size: int = 32
    ) -> None:
        """`threads` 0 leaves torch's own setting, which is shared by the whole process."""
        self.checkpoint = checkpoint
        self.name = name or f"st:{checkpoint.folder}"
        self.batch_size = batch_size
        self._lock = threading.Lock()  # tokenizers refuse to be used by two threads at once
        self._model = _load(checkpoint, threads)

    def __repr__(self) -> str:
        return f"SentenceTransformerEncoder({self.name!r})"

    @cached_property
    def dim(self) -> int:
        model = self._model
        ask = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension  # before 5.0
        return int(ask())

    @property
    def max_tokens(self) -> int:
        return int(self._model.max_seq_length or self.checkpoint.max_tokens)

    @property
    def transformer(self) -> Any:
        """The transformer as the library transformers has it, below pooling and other modules."""
        return self._model[0].auto_model

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
        if not (texts := check_texts(texts)):
            return []
        with self._lock:
            ids = self._model.tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return [len(i) for i in ids]

    def _encode(self, texts: list[str], prompt: str, progress: Callable[[int], None] | None) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dim), np.float32)
        longest_first = np.argsort([-len(text) for text in texts], kind="stable")
        for start in range(0, len(texts), _TEXTS_A_TURN):
            rows = longest_first[start : start + _TEXTS_A_TURN]
            try:
                with self._lock:
                    vectors[rows] = self._model.encode(
                        [texts[i] for i in rows],
                        prompt=prompt,
                        batch_size=self.batch_size,
                        normalize_embeddings=True,
                        show_progress_bar=False,
                    )
            except RuntimeError as error:  # out of memory, for one
                raise ModelError(f"encoder {self.name!r} failed: {error}") from error
            if progress is not None:
                progress(len(rows))
        return vectors


def _load(checkpoint: Checkpoint, threads: int) -> Any:
    try:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError(f"the encoder {str(checkpoint.folder)!r}", "local") from error
    if threads:
        torch.set_num_threads(threads)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return SentenceTransformer(str(checkpoint.folder))
    except Exception as error:
        raise ModelError(f"sentence-transformers cannot load {str(checkpoint.folder)!r}: {error}") from error
    finally:
        if shown:
            logging.enable_progress_bar()
