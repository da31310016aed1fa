"""BERT-family encoders on the native engine: no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rag.encoders.checkpoint import Checkpoint
from rag.encoders.native import NativeTransformer, read_tokenizer, unsupported_transformer
from rag.encoders.texts import check_texts
from rag.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["BertEncoder", "unsupported"]

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
        self.transformer = NativeTransformer(checkpoint, threads=threads)
        self.threads = self.transformer.threads

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
        done = 0
        for tokens in self._turns(texts, prompt):
            vectors[done : done + len(tokens)] = self.transformer.vectors(tokens, self.checkpoint.pooling)
            done += len(tokens)
            if progress is not None:
                progress(len(tokens))
        return vectors

    def _turns(self, texts: list[str], prompt: str) -> Iterator[list[list[int]]]:
        """Token ids of the texts, in order, in lists that one native call works on."""
        turn: list[list[int]] = []
        size = 0
        for start in range(0, len(texts), _TEXTS_A_TURN):
            some = [prompt + text for text in texts[start : start + _TEXTS_A_TURN]]
            for encoding in self._tokenizer.encode_batch_fast(some):
                turn.append(encoding.ids)
                size += len(encoding.ids)
                if size >= self.transformer.tokens_a_call:
                    yield turn
                    turn, size = [], 0
        if turn:
            yield turn

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = read_tokenizer(self.checkpoint)
        tokenizer.enable_truncation(self.max_tokens)
        return tokenizer

    @cached_property
    def _counter(self) -> Tokenizer:
        return read_tokenizer(self.checkpoint)


def unsupported(checkpoint: Checkpoint) -> str:
    """Why BertEncoder cannot run a checkpoint; empty when it can."""
    checks = {
        "lower-casing outside the tokenizer": not checkpoint.lower_case,
        f"pooling {checkpoint.pooling!r}": checkpoint.pooling in ("mean", "cls"),
        f"modules {[kind for _, kind in checkpoint.modules]}": not checkpoint.modules,
    }
    reasons = [unsupported_transformer(checkpoint), *(reason for reason, good in checks.items() if not good)]
    return ", ".join(reason for reason in reasons if reason)
