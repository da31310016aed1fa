"""A prompt as segments, each turned into tokens by itself, and the names of their states in a store."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from rag.errors import InputError, did_you_mean

__all__ = ["Kind", "Piece", "Segment", "head_context", "head_length", "pieces_of", "segment_id", "then"]

Kind: TypeAlias = Literal["instructions", "chunk", "question"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a prompt that becomes tokens by itself: from `text`, or `tokens` given as they are.

    `instructions`: the same in many prompts; those that open the prompt stand before every chunk. `chunk`: retrieved
    text, which may stand anywhere. `question`: new in every prompt, always computed and never stored. InputError for
    another kind.
    """

    kind: Kind
    text: str = ""
    tokens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"a segment is of kind {self.kind!r}", hint=did_you_mean(self.kind, get_args(Kind)))


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment as tokens, where it stands in the prompt, and its name under which a store may know it.

    `before` names all that stands before it (see `then`), so that `(id, before)` names states in one context.
    """

    kind: Kind
    tokens: tuple[int, ...]
    start: int
    id: str
    before: str

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens)


def segment_id(model: str, tokens: Sequence[int]) -> str:
    """The name of a segment: hex SHA-256 of the model's fingerprint and the token ids.

    The tokenizer is not part of it: states depend on the ids alone, whoever made them of a text.
    """
    return hashlib.sha256(model.encode() + b"\0" + struct.pack(f"<{len(tokens)}q", *tokens)).hexdigest()


def then(before: str, segment: str) -> str:
    """The name of a context that one more segment follows; the empty context is the empty string."""
    return hashlib.sha256(f"{before}\0{segment}".encode()).hexdigest()


def pieces_of(segments: Sequence[Segment], tokenizer: Any, model: str) -> list[Piece]:
    """The segments as tokens, in order; segments without tokens are dropped.

    Each text becomes tokens without regard to its neighbours, so that a chunk has the same tokens wherever it stands.
    No token spans a border, as it might if the joined text were tokenized: blank lines and spaces between segments
    belong at the end of the one before, and the reference for any comparison is the prompt of the same tokens. What
    the tokenizer puts before every text (BOS) opens the prompt as instructions of its own, unless the first segment
    brings tokens instead of text.

    Raises InputError for a prompt without tokens, or a text without a tokenizer.
    """
    parts: list[tuple[Kind, tuple[int, ...]]] = []
    for segment in segments:
        if segment.tokens is not None:
            parts.append((segment.kind, segment.tokens))
            continue
        if tokenizer is None:
            raise InputError("a segment has a text, but the manager no tokenizer", hint="give it one, or give tokens")
        if not parts:
            parts.append(("instructions", _opening(tokenizer)))
        ids = tokenizer(segment.text, add_special_tokens=False, verbose=False)["input_ids"]
        parts.append((segment.kind, tuple(ids)))
    pieces: list[Piece] = []
    start, before = 0, ""
    for kind, tokens in parts:
        if tokens:
            pieces.append(Piece(kind, tokens, start, segment_id(model, tokens), before))
            start, before = pieces[-1].stop, then(before, pieces[-1].id)
    if not pieces:
        raise InputError("the prompt has no tokens")
    return pieces


def head_length(pieces: Sequence[Piece]) -> int:
    """How many pieces open the prompt as instructions: the context in which chunks are cached."""
    return next((at for at, piece in enumerate(pieces) if piece.kind != "instructions"), len(pieces))


def head_context(pieces: Sequence[Piece]) -> str:
    """The name of the context in which chunks are cached: of the instructions that open the prompt."""
    head = pieces[: head_length(pieces)]
    return then(head[-1].before, head[-1].id) if head else ""


def _opening(tokenizer: Any) -> tuple[int, ...]:
    """What the tokenizer puts before a text."""
    plain = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]
    full = tokenizer("a", verbose=False)["input_ids"]
    for at in range(len(full) - len(plain) + 1):
        if full[at : at + len(plain)] == plain:
            return tuple(full[:at])
    return ()
