"""Accumulate, summarise and vote: one answer of many, its citations under one numbering."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.collection import Collection
from rag.errors import InputError, ModelError
from rag.models import Completion
from rag.models.scripted import ScriptedModel
from rag.operators.generation import Accumulate, ExtractiveAnswer, Generate, Summarise, Vote
from rag.operators.generation.joining import normalised
from rag.operators.post_retrieval import BuildContext
from rag.operators.retrieval import BM25, Dense
from rag.pipelines import Pipeline
from rag.types import Answer, Citation, Context, Passage, Query, Usage

LAKE = "The lake freezes in January."
BOAT = "A boat costs twenty euros."


def citation(number: int, chunk: int, quote: str = LAKE, document: str = "d") -> Citation:
    return Citation(number, chunk, document, 100 * chunk, 100 * chunk + len(quote), 1, quote)


def two() -> list[Answer]:
    return [
        Answer("It freezes in January [1].", (citation(1, 7),), score=1.0, usage=Usage(10, 2, 1)),
        Answer("Boats cost twenty euros [1]. The lake freezes [2].", (citation(1, 9, BOAT), citation(2, 7)), score=0.5),
    ]


def test_accumulate_numbers_answers_and_citations_anew():
    joined = Accumulate().run(two())
    assert joined.text == "1. It freezes in January [1].\n\n2. Boats cost twenty euros [2]. The lake freezes [1]."
    assert [(c.number, c.chunk) for c in joined.citations] == [(1, 7), (2, 9)]
    assert (joined.score, joined.usage, joined.found) == (0.75, Usage(10, 2, 1), True)
    plain = Accumulate(numbered=False, separator=" | ").run(two())
    assert plain.text.startswith("It freezes in January [1]. | Boats")


def test_accumulate_takes_out_numbers_that_nothing_stands_behind():
    text = "One [1, 4]. Two [4]. Code `a[1]` stays [2-3]."
    joined = Accumulate().run([Answer(text, (citation(1, 5), citation(2, 6), citation(3, 5)))])
    assert joined.text == "One [1]. Two. Code `a[1]` stays [1, 2]."


def test_accumulate_leaves_out_repetitions_and_what_was_not_found():
    missing = Answer("Not there.", found=False, usage=Usage(1, 1, 1))
    answers = [missing, Answer("The boat!"), Answer("a boat"), Answer("  ")]
    joined = Accumulate().run(answers)
    assert (joined.text, joined.usage) == ("The boat!", Usage(1, 1, 1))
    assert Accumulate().run([missing, missing]).text == "Not there."
    assert not Accumulate().run([missing]).found
    assert not Accumulate().run([]).found


@given(st.lists(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), max_size=4), max_size=5))
def test_every_number_points_to_what_it_pointed_to(branches: list[list[tuple[int, int]]]):
    answers = []
    for i, pairs in enumerate(branches):
        place = dict(pairs)
        text = " ".join(f"Claim{i}w{n} [{n}]." for n in place)
        answers.append(Answer(text or f"Claim{i}.", tuple(citation(n, c) for n, c in place.items())))
    joined = Accumulate().run(answers)
    chunk_of = {c.number: c.chunk for c in joined.citations}
    assert sorted(chunk_of) == list(range(1, len(chunk_of) + 1))
    for i, pairs in enumerate(branches):
        for n, chunk in dict(pairs).items():
            after = joined.text.split(f"Claim{i}w{n} [")[1]
            assert chunk_of[int(after.split("]")[0])] == chunk


QUERY = Query("what of the lake?")


def test_summarise_keeps_citations_that_hold():
    llm = ScriptedModel([Completion("The lake freezes in January [1]. Dogs swim gladly [2].", Usage(5, 5, 1))])
    merged = Summarise().run(QUERY, two(), llm=llm)
    assert merged.text == "The lake freezes in January [1]. Dogs swim gladly."
    (held,) = merged.citations
    assert (held.number, held.chunk, held.quote, held.start) == (1, 7, LAKE, 700)
    assert (merged.score, merged.usage) == (0.5, Usage(15, 7, 2))
    prompt = llm.calls[0].messages[-1].content
    assert "2. Boats cost twenty euros [2]." in prompt
    assert f"[2] {BOAT}" in prompt


def test_summarise_asks_nobody_when_there_is_nothing_to_merge():
    silent = ScriptedModel([])
    missing = Answer("Not there.", found=False)
    assert Summarise().run(QUERY, two()[:1], llm=silent).text == "It freezes in January [1]."
    assert Summarise().run(QUERY, [missing, two()[0], two()[0]], llm=silent).text == "It freezes in January [1]."
    assert not Summarise().run(QUERY, [missing], llm=silent).found
    assert not Summarise().run(QUERY, [], llm=silent).found


@pytest.mark.parametrize("reply", ["", " \n", "???", "<think>hm", "```\n```"])
def test_summarise_falls_back_to_all_answers(reply: str):
    merged = Summarise().run(QUERY, two(), llm=ScriptedModel(reply))
    assert merged.text == Accumulate().run(two()).text
    assert merged.usage.calls == 2


def test_summarise_in_a_batch_and_in_a_small_window():
    llm = ScriptedModel("The lake freezes in January [1].", context_tokens=320)
    long = [*two(), Answer("More [1].", (citation(1, 11, "word " * 2000),))]
    batch = Summarise(max_tokens=32).run_batch([QUERY] * 3, [two(), long, []], llm=llm, encoder=None)
    assert batch == [Summarise(max_tokens=32).run(QUERY, a, llm=llm) for a in (two(), long, [])]
    with pytest.raises(ModelError):
        Summarise().run(QUERY, two(), llm=ScriptedModel([ModelError("gone")]))


def ctx(*scores: float) -> Context:
    return Context(tuple(Passage(i, i, "d", "x", 0, 1, 1, s) for i, s in enumerate(scores, 1)))


def test_vote_weighs_branches_by_retrieval_as_replug_does():
    answers = [Answer("Paris."), Answer("Lyon"), Answer("the paris [1]", usage=Usage(1, 1, 1))]
    chosen = Vote().run(answers, [ctx(1.0, 0.2), ctx(1.2), ctx(0.5)])
    share = np.exp([1.0, 1.2, 0.5])
    assert chosen.text == "Paris."
    assert chosen.score == pytest.approx((share[0] + share[2]) / share.sum())
    assert chosen.usage == Usage(1, 1, 1)
    assert Vote(temperature=0.1).run(answers, [ctx(1.0, 0.2), ctx(1.2), ctx(0.5)]).text == "Lyon"
    assert Vote().run(answers[:2], [ctx(), ctx()]).text == "Paris."


def test_vote_by_answers_or_by_count():
    answers = [Answer("a b", score=0.1), Answer("c", score=0.9), Answer("c", score=0.95), Answer("d")]
    assert Vote(weights="answer").run(answers).score == pytest.approx(
        np.exp([0.9, 0.95]).sum() / np.exp([0.1, 0.9, 0.95, 0]).sum()
    )
    chosen = Vote(weights="equal").run(answers)
    assert (chosen.text, chosen.score) == ("c", 0.5)


def test_vote_for_nothing_found():
    missing = Answer("Not there.", found=False)
    assert not Vote().run([]).found
    assert Vote(weights="equal").run([missing, missing]).score == 1
    chosen = Vote(weights="equal").run([missing, missing, Answer("yes")])
    assert (chosen.text, chosen.score) == ("yes", pytest.approx(1 / 3))


def test_vote_says_what_it_lacks():
    with pytest.raises(InputError, match="2 answers, but no context"):
        Vote().run(two())
    with pytest.raises(InputError, match="1 contexts"):
        Vote().run(two(), [ctx(1.0)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("The Cat's hat!", "cats hat"), ("A  b\tAn", "b"), ("1,000 [3]", "1000"), ("Antheap", "antheap"), ("?!", "")],
)
def test_answers_are_compared_as_in_squad(text: str, expected: str):
    assert normalised(text) == expected


def test_in_pipelines(kb: Collection):
    read = BuildContext() >> ExtractiveAnswer()
    branches = (Dense(k=2) >> read) | (BM25(k=2) >> read)
    for join in (Accumulate(), Vote()):
        state = Pipeline(branches >> join, collection=kb).run("what does renting a boat cost?")
        assert "twenty euros" in state.answer.text
    reading = BuildContext() >> Generate()
    flow = ((Dense(k=2) >> reading) | (BM25(k=2) >> reading)) >> Summarise()
    llm = ScriptedModel(["It costs twenty euros an hour [1].", "Twenty euros [1].", "Renting costs twenty euros [1]."])
    state = Pipeline(flow, collection=kb, llm=llm).run("what does renting a boat cost?")
    assert state.answer.text.startswith("Renting costs twenty euros")
