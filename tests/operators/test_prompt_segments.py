"""A prompt as segments: the text is that of the filled prompt, and chunks are the same at every rank."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.kvcache import Segment
from rag.operators.generation.reading import passage_segments
from rag.operators.prompts import Prompt
from rag.types import Passage

PROMPTS = [
    Prompt("Say {not_found} otherwise.", "Passages:\n\n{passages}\n\nQuestion: {question}"),
    Prompt("", "{question}\n\n{passages}"),
    Prompt("Use these:\n{passages}", "{question}"),
    Prompt("", "<p>{passages}</p>\n{question} again: {passages}"),
]


def passages(*texts: str, first: int = 1) -> list[Passage]:
    return [Passage(n, n, f"{n}.md", text, 0, len(text), 1, 0.5, {}) for n, text in enumerate(texts, first)]


@pytest.mark.parametrize("prompt", PROMPTS)
@given(texts=st.lists(st.text("ab \n{}", max_size=6), min_size=1, max_size=4), question=st.text("ab \n{}", max_size=6))
def test_joined_they_are_the_filled_prompt(prompt: Prompt, texts: list[str], question: str):
    shown = "\n\n".join(f"[{n}] {text}" for n, text in enumerate(texts, 1))
    filled = prompt.fill({"passages": shown, "question": question, "not_found": "no"})
    parts = prompt.segments({"question": question, "not_found": "no"}, passage_segments(passages(*texts)))
    assert tuple("".join(segment.text for segment in part) for part in parts) == (filled.system, filled.user)


def test_chunks_have_no_numbers_and_end_alike():
    one = PROMPTS[0].segments({"question": "?", "not_found": ""}, passage_segments(passages("A.", "B.")))[1]
    other = PROMPTS[0].segments({"question": "!", "not_found": ""}, passage_segments(passages("B.", "A.")))[1]
    assert [segment.text for segment in one if segment.kind == "chunk"] == [" A.\n\n", " B.\n\n"]
    assert {s for s in one if s.kind == "chunk"} == {s for s in other if s.kind == "chunk"}
    assert one[0] == Segment("instructions", "Passages:\n\n")
    assert [segment.kind for segment in one] == ["instructions"] + ["instructions", "chunk"] * 2 + ["question"]


def test_what_holds_the_question_is_never_kept():
    user = PROMPTS[1].segments({"question": "Why?", "not_found": ""}, passage_segments(passages("A.")))[1]
    assert [(s.kind, s.text) for s in user] == [("question", "Why?\n\n"), ("instructions", "[1]"), ("chunk", " A.")]


def test_titles_and_pages_belong_to_the_chunk():
    text = "Boats sail."
    passage = Passage(3, 1, "a.md", text, 0, len(text), 1, 0.5, {"title": "Lake", "page": 2})
    assert [s.text for s in passage_segments([passage])] == ["[3]", " Lake, page 2\nBoats sail."]
