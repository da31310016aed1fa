"""Operators that make several queries of the question."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.encoders import Encoder, load
from rag.models.scripted import ScriptedModel
from rag.operators import operator
from rag.operators.orchestration import AllAsked, Remember
from rag.operators.pre_retrieval import CoVe, MultiQuery, NextQuery, SubQueries
from rag.pipelines import Loop, Pipeline, Run
from rag.types import Answer, Query

QUESTION = Query("when do boats sail?", filter="year >= 2018")
ENCODER = load("hashing:256")


def texts(queries: list[Query]) -> list[str]:
    return [q.text for q in queries]


def test_multi_query_keeps_the_question_first_and_drops_what_asks_for_something_else():
    reply = "1. when do the boats sail?\n2. boats sail when?\n3. how high is the mountain?\n4. When do boats sail?"
    made = MultiQuery(n=4, similarity=0.5).run(QUESTION, ScriptedModel(reply), ENCODER)
    assert texts(made) == ["when do boats sail?", "when do the boats sail?", "boats sail when?"]
    assert made[0] is QUESTION
    assert all(q.filter == QUESTION.filter for q in made)


@given(st.lists(st.text("abcdefg ", min_size=1, max_size=30), max_size=6), st.floats(-1, 1))
def test_multi_query_drops_by_the_cosine_and_nothing_else(lines: list[str], bound: float):
    made = MultiQuery(n=20, similarity=bound).run(QUESTION, ScriptedModel("\n".join(lines)), ENCODER)
    unique: dict[str, str] = {}
    for line in lines:
        if line.strip():
            unique.setdefault(line.strip(), line.strip())
    own = ENCODER.encode_queries([QUESTION.text])[0]
    expected = [t for t in unique if float(ENCODER.encode_queries([t])[0] @ own) >= bound + 1e-6]
    allowed = [t for t in unique if float(ENCODER.encode_queries([t])[0] @ own) >= bound - 1e-6]
    assert made[0] is QUESTION
    assert set(expected) <= set(texts(made[1:])) <= set(allowed)


def test_multi_query_with_a_real_encoder(minilm: Encoder):
    reply = "in which months are boats on the water?\nwhat is the capital of France?"
    made = MultiQuery(similarity=0.4).run(Query("when do boats sail?"), ScriptedModel(reply), minilm)
    assert texts(made) == ["when do boats sail?", "in which months are boats on the water?"]


def test_multi_query_asks_for_n_and_takes_no_more():
    llm = ScriptedModel("boats a\nboats b\nboats c")
    assert len(MultiQuery(n=2, similarity=-1).run(QUESTION, llm, ENCODER)) == 3
    assert "Write 2 other" in llm.calls[0].messages[0].content


def test_a_line_in_which_the_model_was_cut_off_is_left_out():
    llm = ScriptedModel("what is a boat?\nwhat is a long and winding question about it?")
    assert texts(SubQueries(max_tokens=8).run(QUESTION, llm)) == ["what is a boat?", "when do boats sail?"]
    assert texts(SubQueries(max_tokens=3, with_original=False).run(QUESTION, llm)) == ["what is a"]


def test_sub_queries_come_simplest_first_and_the_question_last():
    llm = ScriptedModel("Sub-question 1: What is a boat?\n2. What is sailing?\nWhen do boats sail?")
    assert texts(SubQueries().run(QUESTION, llm)) == ["What is a boat?", "What is sailing?", "when do boats sail?"]
    assert texts(SubQueries(with_original=False, n=1).run(QUESTION, llm)) == ["What is a boat?"]


@pytest.mark.parametrize("with_original", [True, False])
def test_sub_queries_that_cannot_be_read_leave_the_question(with_original: bool):
    assert SubQueries(with_original=with_original).run(QUESTION, ScriptedModel("...")) == [QUESTION]


@operator(name="testing.answer_each")
def answer_each(query: Query) -> Answer:
    """Answers with the question."""
    return Answer(f"answer to {query.text}")


def test_sub_queries_one_after_another_in_a_loop():
    llm = ScriptedModel("first?\nsecond?")
    each = Loop(NextQuery() >> answer_each() >> Remember(), until=AllAsked(), at_most=10)
    run = Run()
    state = Pipeline(SubQueries() >> each, llm=llm).run("both?", observe=run)
    assert [span.note for span in run.spans if "ended in round 3" in span.note]
    assert [m.content for m in state.memory if m.role == "user"] == ["first?", "second?", "both?"]
    assert state.answer.text == "answer to both?"


def test_the_loop_ends_at_once_when_there_is_one_question():
    run = Run()
    loop = Loop(NextQuery() >> answer_each(), until=AllAsked(), at_most=10)
    Pipeline(SubQueries() >> loop, llm=ScriptedModel("")).run("alone?", observe=run)
    assert [span.note for span in run.spans if "ended in round 1" in span.note]


def test_cove_keeps_what_the_model_confirms():
    llm = ScriptedModel({"Derived query: good": "yes", "Derived query: bad": "No.", "Derived query: odd": "perhaps"})
    queries = [QUESTION, Query("good"), Query("bad"), Query("odd")]
    assert texts(CoVe().run(QUESTION, queries, llm)) == ["when do boats sail?", "good", "odd"]
    assert len(llm.calls) == 3


def test_cove_never_leaves_nothing():
    assert CoVe().run(QUESTION, [Query("a"), Query("b")], ScriptedModel("no")) == [QUESTION]
    assert CoVe().run(QUESTION, [], ScriptedModel([])) == [QUESTION]


def test_cove_keeps_items_of_a_batch_apart():
    llm = ScriptedModel({"Derived query: bad": "no", "": "yes"})
    queries = [[Query("bad"), Query("fine")], [], [Query("fine"), Query("bad"), Query("bad 2")]]
    made = CoVe(concurrency=4).run_batch([QUESTION] * 3, queries, llm=llm)
    assert [texts(m) for m in made] == [["fine"], ["when do boats sail?"], ["fine"]]


def test_vectors_of_the_question_do_not_reach_its_expansions():
    query = Query("boats?", vector=np.ones(4, np.float32))
    made = SubQueries().run(query, ScriptedModel("what is a boat?"))
    assert made[0].vector is None
    assert made[1].vector is query.vector
