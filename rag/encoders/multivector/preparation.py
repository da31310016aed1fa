"""From texts to token ids, and which tokens make vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.encoders.checkpoint import Checkpoint, read_json
from rag.encoders.multivector.layout import Side
from rag.encoders.native import read_tokenizer
from rag.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = ["Preparation", "Prepared", "tokenizer_of"]


class Prepared(NamedTuple):
    """A text as `ids` int32[t]; those to `keep` bool[t] make vectors, `spans` int32[t, 2] are their characters.

    All tokens attend to the first `attended` ones.
    """

    ids: NDArray[np.int32]
    spans: NDArray[np.int32]
    keep: NDArray[np.bool_]
    attended: int


class Preparation:
    """Prepares the texts of one side. `trained`: special tokens, markers and prompts make vectors as well."""

    def __init__(self, checkpoint: Checkpoint, side: Side, *, trained: bool) -> None:
        self._side = side
        self._trained = trained
        self._tokenizer = tokenizer_of(checkpoint)
        self._tokenizer.enable_truncation(side.max_tokens - bool(side.marker))
        self._marker = self._id(checkpoint, side.marker) if side.marker else None
        self._expansion = self._id(checkpoint, side.expansion or _filler(checkpoint)) if side.expand_to else 0
        ids = (self._tokenizer.token_to_id(word) for word in side.skip)
        # A word that is no token would be the unknown token, and that one is for the words of texts.
        self._skip = np.array(sorted({i for i in ids if i is not None}), np.int32)

    def __call__(self, texts: Sequence[str]) -> list[Prepared]:
        """The texts' tokens, at most `max_tokens` of each."""
        prompt = self._side.prompt
        return [self._prepared(e) for e in self._tokenizer.encode_batch([prompt + text for text in texts])]

    def _prepared(self, encoding: Encoding) -> Prepared:
        ids = np.array(encoding.ids, np.int32)
        added = np.array(encoding.special_tokens_mask, np.bool_)
        spans = np.array(encoding.offsets, np.int32).reshape(-1, 2) - len(self._side.prompt)
        added |= spans[:, 1] <= 0
        if self._marker is not None:
            ids, added, spans = (_inserted(x, v) for x, v in ((ids, self._marker), (added, True), (spans, 0)))
        attended = len(ids)
        if missing := max(self._side.expand_to - len(ids), 0):
            ids = np.concatenate([ids, np.full(missing, self._expansion, np.int32)])
            added = np.concatenate([added, np.ones(missing, np.bool_)])
            spans = np.concatenate([spans, np.zeros((missing, 2), np.int32)])
            if self._side.attend_to_expansion:
                attended = len(ids)
        spans = np.where(added[:, None], 0, np.maximum(spans, 0)).astype(np.int32)
        keep = ~np.isin(ids, self._skip) if self._trained else ~added
        return Prepared(ids, spans, keep, attended)

    def _id(self, checkpoint: Checkpoint, token: str) -> int:
        """The id of a token; what PyLate calls "[Q] " may be in the vocabulary without its space."""
        for name in (token, token.strip()):
            if (found := self._tokenizer.token_to_id(name)) is not None:
                return int(found)
        raise ModelError(f"the tokenizer of {str(checkpoint.folder)!r} has no token {token!r}, which its settings name")


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """A fresh tokenizer of a checkpoint; it lower-cases where the checkpoint's settings ask for it."""
    tokenizer = read_tokenizer(checkpoint)
    if checkpoint.lower_case:
        from tokenizers.normalizers import Lowercase
        from tokenizers.normalizers import Sequence as Several

        tokenizer.normalizer = Several([Lowercase(), *([tokenizer.normalizer] if tokenizer.normalizer else [])])
    return tokenizer


def _inserted(values: NDArray, value: int) -> NDArray:  # type: ignore[type-arg]
    """`values` with one more behind the first."""
    return np.insert(values, min(1, len(values)), value, axis=0)


def _filler(checkpoint: Checkpoint) -> str:
    """The token that queries are filled up with: the mask token, or the end token of a model without one."""
    names = read_json(checkpoint.root / "tokenizer_config.json") or {}
    names |= read_json(checkpoint.root / "special_tokens_map.json") or {}
    for kind in ("mask_token", "eos_token"):
        if token := names.get(kind):
            return str(token["content"] if isinstance(token, dict) else token)
    return "[MASK]"
