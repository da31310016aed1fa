"""Where the parts of messages lie in the prompt that is made of them: in its text, and in its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rag.models.prefilling import Turn
from rag.types import Message

__all__ = ["borders", "joined", "split"]


def joined(turns: Sequence[Turn]) -> list[Message]:
    """The messages that these parts make up."""
    return [Message(role, "".join(parts)) for role, parts in turns]


def borders(turns: Sequence[Turn], render: Callable[[Sequence[Message]], str]) -> list[int]:
    """Where in the prompt's text each part but the last one ends; nothing where the template hides it.

    Found by rendering the messages again with a mark behind each part, which none of them holds.
    """
    text = render(joined(turns))
    mark = next(mark for mark in map(chr, range(0xE000, 0xF900)) if mark not in text)  # of the private use area
    marked = joined([(role, [part + mark for part in parts]) for role, parts in turns])
    marked[-1] = Message(marked[-1].role, marked[-1].content.removesuffix(mark))
    pieces = render(marked).split(mark)
    if "".join(pieces) != text or len(pieces) != sum(len(parts) for _, parts in turns):
        return []
    return [int(end) for end in np.cumsum([len(piece) for piece in pieces[:-1]])]


def split(ids: Sequence[int], offsets: Sequence[tuple[int, int]], ends: Sequence[int]) -> list[tuple[int, ...]]:
    """Tokens cut at these places of their text; one that spans a border goes with the part that it begins in.

    `offsets` has (start, end) of each token in the text. Tokens that stand for nothing in it begin at 0.
    """
    starts = np.maximum.accumulate([start for start, _ in offsets])
    cuts = np.searchsorted(starts, ends).tolist()
    return [tuple(ids[a:b]) for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
