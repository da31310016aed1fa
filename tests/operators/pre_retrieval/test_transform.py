"""Operators that make another query of the question."""

from __future__ import annotations

import numpy as np
import pytest

from rag.collection import Collection
from rag.models.scripted import ScriptedModel
from rag.operators.indexing import Auto, embedding_text
from rag.operators.indexing.settings import IndexSettings, chunk
from rag.operators.pre_retrieval import HistoryQuery, HyDE, ReverseHyDE, Rewrite, StepBack
from rag.operators.retrieval import Dense
from rag.pipelines import Loop, Pipeline
from rag.types import Answer, Chunk, Document, Message, Query

QUESTION = Query("when do boats sail?", filter="year >= 2018", vector=np.ones(3, np.float32))


def said(llm: ScriptedModel) -> str:
    return llm.calls[-1].messages[-1].content


def test_rewrite_takes_the_first_line_and_keeps_the_filter():
    llm = ScriptedModel('Query: "boat season lake"\nbecause that is shorter')
    made = Rewrite().run(QUESTION, llm=llm)
    assert (made.text, made.filter, made.vector) == ("boat season lake", "year >= 2018", None)
    assert "when do boats sail?" in said(llm)


def test_rewrite_stays_with_the_question_when_the_reply_is_empty():
    assert Rewrite().run(QUESTION, llm=ScriptedModel("\n \n")) is QUESTION


def test_rewrite_in_a_loop_sees_the_answer_before():
    llm = ScriptedModel("better query")
    Rewrite().run(QUESTION, None, Answer("in spring"), [Message("user", "about lakes")], llm=llm)
    assert "in spring" in said(llm)
    assert "user: about lakes" in said(llm)
    Rewrite().run(QUESTION, Answer("a draft"), Answer("in spring"), llm=llm)
    assert "a draft" in said(llm)
    assert "in spring" not in said(llm)


def test_rewrite_loops_without_an_answer_at_first():
    llm = ScriptedModel(["one", "two", "three"])
    assert Pipeline(Loop(Rewrite(), at_most=3), llm=llm).run("zero").query.text == "three"


def test_a_follow_up_question_is_made_to_stand_alone():
    memory = [Message("user", "When do boats sail?"), Message("assistant", "In summer.")]
    llm = ScriptedModel("When do boats sail in winter?")
    pipeline = Pipeline(HistoryQuery(), llm=llm, inputs=("query", "memory"))
    assert pipeline.run("and in winter?", memory=memory).query.text == "When do boats sail in winter?"
    assert "user: When do boats sail?\nassistant: In summer." in said(llm)


def test_without_a_conversation_nobody_is_asked():
    llm = ScriptedModel([])
    assert HistoryQuery().run(QUESTION, None, llm=llm) is QUESTION
    assert HistoryQuery().run(QUESTION, [], llm=llm) is QUESTION
    assert llm.calls == []


def test_only_the_latest_turns_are_shown():
    llm = ScriptedModel("q")
    HistoryQuery(turns=2).run(QUESTION, [Message("user", f"message {i}") for i in range(5)], llm=llm)
    assert "message 2" not in said(llm)
    assert "message 3" in said(llm)
    assert "message 4" in said(llm)


def test_step_back_adds_the_general_question():
    made = StepBack().run(QUESTION, ScriptedModel("What governs sailing seasons?"))
    assert [q.text for q in made] == ["when do boats sail?", "What governs sailing seasons?"]
    assert made[0] is QUESTION
    assert made[1].filter == QUESTION.filter
    assert made[1].vector is None


@pytest.mark.parametrize("reply", ["", "When do boats sail?"])
def test_step_back_without_a_general_question_is_the_question(reply: str):
    assert StepBack().run(QUESTION, ScriptedModel(reply)) == [QUESTION]


def test_hyde_searches_with_the_mean_of_question_and_answers(kb: Collection):
    replies = ["Boats sail in summer.", "They sail from May on.", "  ", "Every day in July."]
    query = Query("when do boats sail?", filter="year >= 2018")
    made = HyDE(n=4, concurrency=1).run(query, ScriptedModel(replies), kb)
    used = [replies[0], replies[1], replies[3]]
    mean = np.vstack([kb.encoder.encode_queries([query.text]), kb.encoder.encode_documents(used)]).mean(axis=0)
    np.testing.assert_allclose(made.vector, mean / np.linalg.norm(mean), atol=1e-6)
    assert made.vector.dtype == np.float32
    assert (made.text, made.filter) == (query.text, query.filter)


def test_hyde_without_a_usable_answer_leaves_the_query(kb: Collection):
    query = Query("when?")
    assert HyDE(n=2).run(query, ScriptedModel(""), kb) is query


def test_hyde_keeps_the_batch_apart(kb: Collection):
    llm = ScriptedModel({"lake freezes": "", "rent": "twenty euros an hour", "storm": "a yellow light"})
    queries = [Query("the rent?"), Query("lake freezes?"), Query("storm?")]
    made = HyDE(n=2).run_batch(queries, llm=llm, collection=kb)
    assert made[1].vector is None
    for got, query in zip(made, queries, strict=True):
        one = HyDE(n=2).run(query, llm, kb)
        if query is not queries[1]:
            np.testing.assert_allclose(got.vector, one.vector, atol=1e-6)


def test_hyde_finds_what_the_question_alone_does_not(kb: Collection):
    question = "expensive on the lake in winter?"
    answer = ScriptedModel("Renting a boat costs about ten euros an hour, which is what boats cost to rent.")
    plain = Pipeline(Dense(k=1), collection=kb).run(question).hits.chunks()[0]
    found = Pipeline(HyDE(n=1) >> Dense(k=1), collection=kb, llm=answer).run(question).hits.chunks()[0]
    assert plain.document != "rent.md"
    assert found.document == "rent.md"


DOCUMENT = Document("lake.md", "# Renting\n\nA boat costs twenty euros. It is paid before.", {"title": "The lake"})


def test_reverse_hyde_writes_questions_that_are_embedded():
    [made] = ReverseHyDE(n=2).run(
        DOCUMENT,
        [Chunk("lake.md", DOCUMENT.text, 0, len(DOCUMENT.text))],
        ScriptedModel("1. What does a boat cost?\nNo question.\n2. When is it paid?\n3. And who is it?"),
    )
    assert made.metadata["questions"] == ["What does a boat cost?", "When is it paid?"]
    assert made.text == DOCUMENT.text
    assert "When is it paid?" in embedding_text(DOCUMENT, made)
    assert "When is it paid?" in embedding_text(DOCUMENT, made, title=False)


@pytest.mark.parametrize("llm", [None, ScriptedModel("I cannot think of any.")])
def test_reverse_hyde_without_questions_uses_what_the_document_says_of_itself(llm: ScriptedModel | None):
    chunk = Chunk(
        "lake.md", "A boat costs twenty euros. It is paid before.", 11, 56, metadata={"headings": ["Renting"]}
    )
    [made] = ReverseHyDE().run(DOCUMENT, [chunk], llm)
    assert made.metadata["questions"] == ["Renting?", "The lake: Renting?", "A boat costs twenty euros?"]
    assert made.metadata["headings"] == ["Renting"]


def test_reverse_hyde_stands_behind_a_chunker_when_a_folder_is_indexed():
    settings = IndexSettings(chunker=Auto() >> ReverseHyDE(n=1))
    assert IndexSettings(**settings.model_dump(mode="json")) == settings
    [made] = chunk(settings.chunker, DOCUMENT)
    assert made.metadata["questions"]


def test_a_question_finds_the_chunk_whose_questions_it_meets(kb: Collection):
    encoder = kb.encoder
    texts = ["Twenty euros, to be paid before.", "What you should know: a boat is a thing that floats."]
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    chunks = [Chunk(d.id, d.text, 0, len(d.text)) for d in documents]
    llm = ScriptedModel({"Twenty": "What does renting a boat cost?", "floats": "What floats on water?"})
    made = [ReverseHyDE().run(d, [c], llm)[0] for d, c in zip(documents, chunks, strict=True)]
    query = encoder.encode_queries(["what does a boat cost?"])[0]
    plain = encoder.encode_documents([embedding_text(d, c) for d, c in zip(documents, chunks, strict=True)]) @ query
    asked = encoder.encode_documents([embedding_text(d, c) for d, c in zip(documents, made, strict=True)]) @ query
    assert plain.argmax() == 1
    assert asked.argmax() == 0
