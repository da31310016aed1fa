"""Answers of a scripted model: what is shown, what is cited, and what is refused."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import ConfigError, InputError, ModelError, NotFoundError
from rag.models.scripted import ScriptedModel
from rag.operators.generation import Generate
from rag.operators.generation.checked_text import CheckedText
from rag.operators.generation.citations import Checker, numbers_in
from rag.operators.generation.generate import Generated
from rag.operators.prompts import load_prompt
from rag.pipelines import Pipeline, Token
from rag.types import Answer, Context, Message, Passage, Query

PARIS = "Lyon is in the south.\nParis is the capital of France. It lies on the Seine, a river of 777 km."
BERLIN = "Berlin has been the capital of Germany since 1990. Before that, Bonn was its seat of government."
DOCUMENTS = {"fr.txt": "Intro.\n\n" + PARIS, "de.txt": BERLIN}
CONTEXT = Context(
    (
        Passage(1, 7, "fr.txt", PARIS, 8, 8 + len(PARIS), 3, 0.9, {"title": "France", "page": 4}),
        Passage(2, 8, "de.txt", BERLIN, 0, len(BERLIN), 1, 0.5),
    )
)
NOT_FOUND = "The documents do not answer this question."


def generate(
    reply: str, context: Context = CONTEXT, memory: list[Message] | None = None, **settings: object
) -> Generated:
    generated, deltas = stream(ScriptedModel(reply), context, memory, **settings)
    assert "".join(deltas) == generated.answer.text
    check_places(generated.answer)
    return generated


def stream(
    llm: ScriptedModel, context: Context = CONTEXT, memory: list[Message] | None = None, **settings: object
) -> tuple[Generated, list[str]]:
    run = Generate(**settings).run(Query("Where?"), context, memory, llm=llm)
    deltas = []
    while True:
        try:
            deltas.append(next(run).text)
        except StopIteration as end:
            return end.value, deltas


def check_places(answer: Answer) -> None:
    for c in answer.citations:
        assert DOCUMENTS[c.document][c.start : c.end] == c.quote
        assert DOCUMENTS[c.document].count("\n", 0, c.start) + 1 == c.line


def test_a_good_citation_becomes_the_sentence_that_supports_it():
    answer = generate("Paris is the capital of France [1]. It has been Berlin's turn since 1990 [2].").answer
    assert answer.text == "Paris is the capital of France [1]. It has been Berlin's turn since 1990 [2]."
    assert [(c.number, c.chunk, c.quote) for c in answer.citations] == [
        (1, 7, "Paris is the capital of France."),
        (2, 8, "Berlin has been the capital of Germany since 1990."),
    ]
    assert answer.citations[0].line == 4
    assert answer.found
    assert answer.score == 1.0
    assert answer.usage.calls == 1
    assert answer.usage.completion_tokens > 0


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Paris is the capital of France [2].", "Paris is the capital of France."),
        ("Paris is the capital of France [3].", "Paris is the capital of France."),
        ("Paris is the capital of France [1, 2, 9].", "Paris is the capital of France [1]."),
        ("Paris is the capital of France [1-3].", "Paris is the capital of France [1]."),
        ("Paris is the capital of France. [1]", "Paris is the capital of France. [1]"),
        ("The Seine has 778 km [1].", "The Seine has 778 km."),
        ("The moon is made of cheese [1].", "The moon is made of cheese."),
        ("Paris [1][2]", "Paris [1]"),
    ],
)
def test_a_number_that_does_not_hold_is_taken_out(said: str, shown: str):
    assert generate(said).answer.text == shown


def test_a_number_that_does_not_hold_can_be_marked_instead():
    answer = generate("The capital of France is Paris [1, 2]. The moon is cheese [1].", unsupported="mark").answer
    assert answer.text == "The capital of France is Paris [1, 2?]. The moon is cheese [1?]."
    assert [c.number for c in answer.citations] == [1]
    assert answer.score == 0.5


def test_brackets_in_code_are_no_citations():
    assert generate("Paris is the capital of France [1]. See `x[9]`.").answer.text.endswith("See `x[9]`.")


@pytest.mark.parametrize("reply", [NOT_FOUND, NOT_FOUND.upper(), "  ", "", NOT_FOUND + " Sorry!"])
def test_a_refusal_is_an_answer_that_was_not_found(reply: str):
    answer = generate(reply).answer
    assert (answer.text, answer.found, answer.citations) == (NOT_FOUND, False, ())


def test_the_beginning_of_a_refusal_alone_is_no_refusal():
    answer = generate("The documents say that Paris is the capital of France [1].").answer
    assert answer.found
    assert [c.number for c in answer.citations] == [1]
    assert generate("The documents").answer.text == "The documents"


def test_an_empty_context_asks_no_model():
    llm = ScriptedModel([])
    generated, deltas = stream(llm, Context(left_out=2), not_found="No.")
    assert generated == Generated(Answer("No.", found=False, score=0.0), Context(left_out=2))
    assert deltas == ["No."]
    assert not llm.calls


def test_nonsense_is_shown_as_it_is():
    assert generate("[[1] ]]] [ [a] 1] [] `[").answer.text


def test_the_prompt_holds_passages_titles_pages_and_question():
    llm = ScriptedModel("Paris [1]")
    stream(llm, memory=[Message("user", "Hello?"), Message("assistant", "Hello.")])
    messages = llm.calls[0].messages
    assert [m.role for m in messages] == ["system", "user", "assistant", "user"]
    assert NOT_FOUND in messages[0].content
    assert f"[1] France, page 4\n{PARIS}" in messages[-1].content
    assert f"[2] {BERLIN}" in messages[-1].content
    assert "Question: Where?" in messages[-1].content


def test_a_passage_cannot_smuggle_in_a_placeholder():
    text = "{question} {not_found} {nonsense}"
    llm = ScriptedModel("ok")
    stream(llm, Context((Passage(1, 0, "d", text, 0, len(text), 1, 1.0),)))
    assert text in llm.calls[0].messages[-1].content


def test_a_small_window_drops_memory_first_then_the_last_passages():
    llm = ScriptedModel("Paris is the capital of France [1].")
    stream(llm)
    both = sum(llm.count_tokens(m.content) + 8 for m in llm.calls[0].messages)
    memory = [Message("user", "Hello?"), Message("assistant", "Hello.")]
    llm = ScriptedModel("Paris is the capital of France [1].", context_tokens=both + 10)
    generated, _ = stream(llm, memory=memory, max_tokens=10)
    assert len(generated.context) == 2
    assert len(llm.calls[0].messages) == 2
    llm = ScriptedModel("Paris is the capital of France [1].", context_tokens=both + 9)
    generated, _ = stream(llm, memory=memory, max_tokens=10)
    assert (len(generated.context), generated.context.left_out) == (1, 1)
    assert BERLIN not in llm.calls[0].messages[-1].content
    assert PARIS in llm.calls[0].messages[-1].content
    with pytest.raises(InputError, match="first passage does not fit"):
        stream(ScriptedModel("x", context_tokens=40), max_tokens=10)


def test_a_model_that_fails_is_an_error():
    with pytest.raises(ModelError):
        stream(ScriptedModel([]))


def test_batch_and_stream_of_a_pipeline_equal_single_runs():
    script = {"Q.*north": "Lyon is in the south [1].", "Q.*seat": "Berlin is the capital since 1990 [2].", "": ""}
    questions = ["what is north", "which seat", "nothing"]
    pipeline = Pipeline(Generate(), llm=ScriptedModel(script), inputs=["query", "context"])
    inputs = [{"query": Query(q), "context": CONTEXT} for q in questions]
    single = [pipeline.run(i) for i in inputs]
    assert [s.answer.found for s in single] == [True, True, False]
    assert [dict(s) for s in pipeline.run_batch(inputs)] == [dict(s) for s in single]
    for state, start in zip(single, inputs, strict=True):
        tokens = [e.text for e in pipeline.stream(start) if isinstance(e, Token)]
        assert "".join(tokens) == state.answer.text


SAYINGS = st.lists(
    st.sampled_from(
        ["Paris is the capital of France", "It", " e.g. U.S. Army", " [1]", "[2, 3]", ". ", "! ", "\n\n", " `", "[",
         "]", " 1990", " the moon", " Dr. No. 5", "? [1] ", "。", "é"]
    ),
    max_size=14,
)  # fmt: skip


@given(SAYINGS, st.lists(st.integers(0, 400), max_size=20), st.booleans())
def test_what_is_shown_does_not_depend_on_how_the_text_was_streamed(parts: list[str], cuts: list[int], mark: bool):
    said = "".join(parts)
    at_once = CheckedText(Checker(CONTEXT, support=0.5), mark=mark)
    whole = at_once.feed(said) + at_once.finish()
    piecewise = CheckedText(Checker(CONTEXT, support=0.5), mark=mark)
    edges = [0, *sorted({c for c in cuts if c < len(said)}), len(said)]
    shown = "".join(piecewise.feed(said[a:b]) for a, b in pairwise(edges)) + piecewise.finish()
    assert shown == whole
    assert piecewise.citations == at_once.citations
    check_places(Answer(whole, tuple(at_once.citations)))
    # But for citations nothing is lost or added.
    assert re.sub(r"[\s\[\]\d,?]", "", whole) == re.sub(r"[\s\[\]\d,?]", "", said)


@given(st.text(max_size=80), st.text("ab 1.é\n", min_size=1, max_size=60), st.integers(0, 3))
def test_a_citation_is_a_place_in_the_passage(claim: str, text: str, number: int):
    context = Context((Passage(1, 0, "d", text, 5, 5 + len(text), 2, 1.0),))
    citation = Checker(context, support=0.0).find(claim, number)
    if citation is not None:
        assert number == 1
        assert text[citation.start - 5 : citation.end - 5] == citation.quote
        assert citation.line == 2 + text.count("\n", 0, citation.start - 5)


def test_numbers_in_a_citation():
    assert numbers_in("[1, 3-5; 4]") == [1, 3, 4, 5]
    assert numbers_in("[7 and 2]") == [7, 2]
    assert len(numbers_in("[1-9999]")) < 100


def test_a_paraphrase_holds_by_its_embedding():
    class Alike:
        """Finds all texts alike."""

        def encode_documents(self, texts: list[str]) -> object:
            import numpy as np

            return np.ones((len(texts), 1), np.float32)

    checker = Checker(CONTEXT, support=0.5, similarity=0.7, encoder=Alike())  # type: ignore[arg-type]
    assert checker.find("A metropolis of Gaul", 1) is not None
    assert checker.find("A metropolis of 12 people", 1) is None
    assert Checker(CONTEXT, support=0.5).find("A metropolis of Gaul", 1) is None


def test_own_prompts_come_first_and_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = tmp_path / "prompts"
    own.mkdir()
    (own / "answer.md").write_text('Say {"json": 1} on {passages} and {question}', "utf-8")
    assert load_prompt("answer", str(own)).fill({"passages": "P", "question": "Q", "not_found": ""}).user == (
        'Say {"json": 1} on P and Q'
    )
    assert load_prompt("short", str(own)).system
    monkeypatch.setenv("RAG_PROMPTS", str(own))
    assert load_prompt("answer").system == ""
    (own / "wrong.md").write_text("{passages} {qestion}", "utf-8")
    with pytest.raises(ConfigError, match="did you mean 'question'"):
        load_prompt("wrong")
    (own / "attribute.md").write_text("{passages.__class__} {question}", "utf-8")
    with pytest.raises(ConfigError, match=r"no placeholder \{passages\}"):
        load_prompt("attribute")
    (own / "binary.md").write_bytes(b"\xff\xfe{passages}")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_prompt("binary")
    (tmp_path / "outside.md").write_text("{passages} {question}", "utf-8")
    (own / "linked.md").symlink_to(tmp_path / "outside.md")
    with pytest.raises(ConfigError, match="leads out"):
        load_prompt("linked")
    for name in ("../outside", "/etc/passwd", "", ".hidden"):
        with pytest.raises(ConfigError, match="no name of a prompt"):
            load_prompt(name)
    with pytest.raises(NotFoundError, match="did you mean 'answer'"):
        load_prompt("answr")
