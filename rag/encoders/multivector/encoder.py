"""Token vectors from transformers: late-interaction checkpoints, and the token states of any other encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from rag.encoders.checkpoint import Checkpoint
from rag.encoders.multivector.layout import Layout
from rag.encoders.multivector.pooling import check_factor, pool
from rag.encoders.multivector.preparation import Preparation, Prepared, tokenizer_of
from rag.encoders.protocol import Encoder, TokenVectors
from rag.encoders.texts import check_texts
from rag.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["LateInteractionEncoder", "TokenStateEncoder", "Transformer"]

_TEXTS_A_TURN = 256


class Transformer(Protocol):
    """What makes token states: `rag.encoders.native.NativeTransformer` or the one of torch."""

    @property
    def tokens_a_call(self) -> int: ...

    def states(
        self, ids: Sequence[NDArray[np.int32]], pooling: str, attended: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...


class LateInteractionEncoder:
    """A checkpoint trained for late interaction: ColBERT, ColBERTv2, PyLate, sentence-transformers' multi-vector ones.

    Markers, query expansion, lengths and the tokens left out follow the checkpoint's own settings (`read_layout`).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        layout: Layout,
        transformer: Transformer,
        *,
        name: str,
        pool_factor: int = 1,
    ) -> None:
        """`pool_factor`: documents keep about one vector for so many tokens (see `pool`); 1 keeps all."""
        self.checkpoint = checkpoint
        self.name = name
        self.pool_factor = check_factor(pool_factor)
        self.layout = layout
        self._transformer = transformer
        width = int(checkpoint.config["hidden_size"])
        for projection in self.layout.projections:
            if projection.inputs != width:
                raise ModelError(f"{name!r}: a projection takes {projection.inputs} numbers, but is handed {width}")
            width = projection.outputs
        self.dim = width

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def max_tokens(self) -> int:
        return self.layout.document.max_tokens

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of the checkpoint's files and of all settings of both sides."""
        sides = [asdict(self.layout.query), asdict(self.layout.document)]
        parts = ["tokens 1", self.checkpoint.fingerprint(), sides, self.layout.trained, self.pool_factor]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def encode_queries(self, texts: Sequence[str]) -> TokenVectors:
        """The token vectors of queries, never pooled."""
        return self._encode(check_texts(texts), self._queries, 1, None)[1]

    def encode_documents(
        self, texts: Sequence[str], *, pooled: bool = True, progress: Callable[[int], None] | None = None
    ) -> TokenVectors:
        """The token vectors of documents; `progress` is called with the number of texts done since last.

        With `pooled` False there is one for each token whatever `pool_factor` is. All vectors are in memory at the
        end, 4 * dim bytes each: hand over a long list in parts.
        """
        factor = self.pool_factor if pooled else 1
        tokens = self._encode(check_texts(texts), self._documents, factor, progress)[1]
        return tokens if pooled else replace(tokens, made_by="")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, uncut and without special tokens."""
        return [len(e) for e in self._counter.encode_batch_fast(check_texts(texts), add_special_tokens=False)]

    @cached_property
    def _queries(self) -> Preparation:
        return Preparation(self.checkpoint, self.layout.query, trained=self.layout.trained)

    @cached_property
    def _documents(self) -> Preparation:
        return Preparation(self.checkpoint, self.layout.document, trained=self.layout.trained)

    @cached_property
    def _counter(self) -> Tokenizer:
        return tokenizer_of(self.checkpoint)

    def _encode(
        self, texts: list[str], prepare: Preparation, factor: int, progress: Callable[[int], None] | None
    ) -> tuple[NDArray[np.float32], TokenVectors]:
        """The texts' pooled states as unit vectors, and their token vectors."""
        pooled: list[NDArray[np.float32]] = [np.empty((0, int(self.checkpoint.config["hidden_size"])), np.float32)]
        parts = [_no_tokens(self.dim)]
        for turn in self._turns(texts, prepare):
            vectors, states = self._states(turn)
            keep = np.concatenate([text.keep for text in turn])
            offsets = np.zeros(len(turn) + 1, np.int64)
            np.cumsum([text.keep.sum() for text in turn], out=offsets[1:])
            spans = np.concatenate([text.spans for text in turn])
            tokens = TokenVectors(self._vectors(states[keep]), offsets, spans[keep])
            pooled.append(vectors)
            parts.append(pool(tokens, factor))
            if progress is not None:
                progress(len(turn))
        return np.concatenate(pooled), _joined(parts, self.fingerprint)

    def _states(self, turn: list[Prepared]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pooled unit vectors and token states; a text without any token has zeros and no states."""
        rows = [i for i, text in enumerate(turn) if len(text.ids)]
        pooled = np.zeros((len(turn), int(self.checkpoint.config["hidden_size"])), np.float32)
        if not rows:
            return pooled, pooled[:0]
        pooling = "cls" if self.checkpoint.pooling == "cls" else "mean"
        pooled[rows], states = self._transformer.states(
            [turn[i].ids for i in rows], pooling, [turn[i].attended for i in rows]
        )
        return pooled, states

    def _vectors(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors of token states."""
        for projection in self.layout.projections:
            states = projection(states)
        norms = np.linalg.norm(states, axis=1, keepdims=True)
        return np.asarray(states / np.maximum(norms, 1e-12), np.float32)

    def _turns(self, texts: list[str], prepare: Preparation) -> Iterator[list[Prepared]]:
        """The prepared texts, in order, in lists that one call works on."""
        turn: list[Prepared] = []
        size = 0
        for start in range(0, len(texts), _TEXTS_A_TURN):
            for text in prepare(texts[start : start + _TEXTS_A_TURN]):
                turn.append(text)
                size += len(text.ids)
                if size >= self._transformer.tokens_a_call:
                    yield turn
                    turn, size = [], 0
        if turn:
            yield turn


class TokenStateEncoder(LateInteractionEncoder):
    """The last token states of an encoder that was trained for one vector a text, without its special tokens.

    That vector and the tokens come out of the same forward pass (`encode_documents_both`). Nothing was trained for
    MaxSim, and still it ranks better than the single vector where that is a mean over these states.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        layout: Layout,
        transformer: Transformer,
        single: Encoder,
        *,
        name: str,
        pool_factor: int = 1,
    ) -> None:
        """`single` is the encoder of the same checkpoint, which gives one vector a text."""
        super().__init__(checkpoint, layout, transformer, name=name, pool_factor=pool_factor)
        self.single = single

    def encode_queries_both(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], TokenVectors]:
        """float32[n, single.dim] as `single` gives them, and the token vectors of the queries."""
        texts = check_texts(texts)
        vectors, tokens = self._encode(texts, self._queries, 1, None)
        return (vectors if self._one_pass else self.single.encode_queries(texts)), tokens

    def encode_documents_both(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> tuple[NDArray[np.float32], TokenVectors]:
        """float32[n, single.dim] as `single` gives them, and the token vectors of the documents.

        One forward pass gives both where the single vector is a mean or the first token; other checkpoints need two.
        """
        texts = check_texts(texts)
        vectors, tokens = self._encode(texts, self._documents, self.pool_factor, progress)
        return (vectors if self._one_pass else self.single.encode_documents(texts)), tokens

    @property
    def _one_pass(self) -> bool:
        return self.checkpoint.pooling in ("mean", "cls") and not self.checkpoint.modules


def _no_tokens(dim: int) -> TokenVectors:
    return TokenVectors(np.empty((0, dim), np.float32), np.zeros(1, np.int64), np.empty((0, 2), np.int32))


def _joined(parts: list[TokenVectors], made_by: str) -> TokenVectors:
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    return TokenVectors(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        np.concatenate([part.spans for part in parts]),
        made_by,
    )
