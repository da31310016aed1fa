"""Segments become the same tokens wherever they stand, and are known by the model and these tokens."""

from __future__ import annotations

from typing import Any

import pytest

from rag.errors import InputError
from rag.kvcache import Segment
from rag.kvcache.segments import head_length, pieces_of, segment_id, then

HEAD = Segment("instructions", "a question is a sentence\n\n")
ONE, TWO = Segment("chunk", "the cat sat on the mat\n"), Segment("chunk", "Grüße aus Köln, 日本語\n")
QUESTION = Segment("question", "the dog?")


@pytest.mark.torch
def test_a_chunk_has_the_same_tokens_wherever_it_stands(tokenizer: Any):
    first = pieces_of([HEAD, ONE, TWO, QUESTION], tokenizer, "m")
    other = pieces_of([HEAD, TWO, ONE, QUESTION], tokenizer, "m")
    assert [piece.kind for piece in first] == ["instructions", "instructions", "chunk", "chunk", "question"]
    assert first[0].tokens == (0,)  # what the tokenizer puts before a text, once
    assert first[2].tokens == other[3].tokens
    assert first[2].id == other[3].id
    assert first[2].before == other[2].before != other[3].before
    assert first[4].id == other[4].id
    assert first[4].before != other[4].before
    assert [piece.start for piece in first[1:]] == [piece.stop for piece in first[:-1]]
    assert tokenizer.decode([t for piece in first[1:] for t in piece.tokens]) == "".join(
        part.text for part in (HEAD, ONE, TWO, QUESTION)
    )
    assert head_length(first) == 2
    assert head_length(pieces_of([ONE, HEAD, QUESTION], tokenizer, "m")) == 1


@pytest.mark.torch
def test_tokens_are_taken_as_they_are(tokenizer: Any):
    segments = [Segment("chunk", tokens=(5, 6)), Segment("chunk", ""), Segment("question", "the")]
    for given in (segments, [Segment("instructions"), *segments]):
        pieces = pieces_of(given, tokenizer, "m")
        assert pieces[-2].tokens == (5, 6)
    assert pieces_of(segments, tokenizer, "m")[0].start == 0


def test_names_follow_model_tokens_and_order():
    names = {segment_id(model, tokens) for model in ("a", "b") for tokens in ((), (1,), (1, 2), (12,), (1 << 40,))}
    assert len(names) == 10
    assert segment_id("a", (1, 2)) == segment_id("a", [1, 2])
    x, y = segment_id("a", (1,)), segment_id("a", (2,))
    assert len({then("", x), then("", y), then(then("", x), y), then(then("", y), x), ""}) == 5


def test_prompts_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="no tokens"):
        pieces_of([], None, "m")
    with pytest.raises(InputError, match="no tokens"):
        pieces_of([Segment("chunk", tokens=())], None, "m")
    with pytest.raises(InputError, match="no tokenizer"):
        pieces_of([Segment("chunk", "text")], None, "m")
    with pytest.raises(InputError, match=r"'instruction'.*did you mean 'instructions'"):
        Segment("instruction")  # type: ignore[arg-type]
