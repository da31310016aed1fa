"""Every sentence of an answer against its context."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.collection import Collection
from rag.models.scripted import ScriptedModel
from rag.operators.generation import CheckSupport, Generate
from rag.operators.generation.check_support import _sentences
from rag.operators.post_retrieval import BuildContext
from rag.operators.retrieval import BM25
from rag.pipelines import Pipeline
from rag.types import Answer, Context, Passage, Usage

TEXTS = ["The lake freezes in January. Boats stay ashore.", "Renting a boat costs 20 euros an hour."]
CONTEXT = Context(tuple(Passage(i, i + 10, f"d{i}", t, 100, 100 + len(t), 3, 1.0) for i, t in enumerate(TEXTS, 1)))


def checked(text: str, **settings: object) -> tuple[Answer, bool]:
    return CheckSupport(**settings).run(Answer(text, usage=Usage(1, 1, 1)), CONTEXT)


def test_supported_sentences_stay_with_the_places_that_support_them():
    answer, supported = checked("In January the lake freezes [1]. A boat costs 20 euros.")
    assert supported
    assert (answer.text, answer.score, answer.found) == (
        "In January the lake freezes [1]. A boat costs 20 euros.",
        1,
        True,
    )
    first, second = answer.citations
    assert (first.number, first.document, first.start, first.quote) == (1, "d1", 100, "The lake freezes in January.")
    assert (second.number, second.quote) == (2, TEXTS[1])
    assert answer.usage == Usage(1, 1, 1)


TEXT = "The lake freezes in January. [1] Sharks live there [1]. A boat costs 30 euros [2]. It is so!"


def test_unsupported_sentences_are_removed_or_marked():
    answer, supported = checked(TEXT)
    assert not supported
    assert answer.text == "The lake freezes in January. [1] It is so!"
    assert answer.score == pytest.approx(1 / 3)
    marked, _ = checked(TEXT, unsupported="mark")
    assert marked.text == (
        "The lake freezes in January. [1] Sharks live there [1]. [?] A boat costs 30 euros [2]. [?] It is so!"
    )
    assert marked.citations == answer.citations
    assert checked(TEXT, unsupported="keep")[0].text == TEXT
    assert checked(TEXT, at_least=0.3)[1]


def test_a_wrong_number_is_set_right_in_the_citations():
    answer, supported = checked("The lake freezes in January [2].")
    assert supported
    assert [c.number for c in answer.citations] == [1]


def test_nothing_left_is_not_found():
    answer, supported = checked("Sharks live there [1].", not_found="No.")
    assert (answer.text, answer.found, answer.citations, supported) == ("No.", False, (), False)
    none = CheckSupport().run(Answer("The lake freezes."), Context())
    assert (none.answer.found, none.supported) == (False, False)


@pytest.mark.parametrize("text", ["", "  \n", "???", "It is so.", "[1]", "\x00"])
def test_what_claims_nothing_is_not_supported_and_no_error(text: str):
    answer, supported = checked(text)
    assert not supported
    assert answer.text == text.strip()


def test_what_was_not_found_stays():
    missing = Answer("The lake freezes in January.", found=False)
    assert CheckSupport().run(missing, CONTEXT) == (missing, False)


@given(st.lists(st.sampled_from(["The lake freezes", "Yes", "[1]", "[2, 3].", ". ", "! ", "\n\n", " ", "d. h. x"])))
def test_sentences_are_the_text_again(parts: list[str]):
    text = "".join(parts)
    assert "".join(_sentences(text)) == text.lstrip()
    for sentence in _sentences(text)[1:]:
        assert not sentence.startswith("[")


def test_in_a_pipeline(kb: Collection):
    llm = ScriptedModel("Renting a boat costs twenty euros [1]. Sharks live there [1].")
    flow = BM25(k=3) >> BuildContext() >> Generate() >> CheckSupport(unsupported="remove")
    state = Pipeline(flow, collection=kb, llm=llm).run("what does renting a boat cost?")
    assert state.answer.text == "Renting a boat costs twenty euros [1]."
    assert state.supported is False
