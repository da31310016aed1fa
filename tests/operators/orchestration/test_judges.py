"""Judges: one bool for a loop, a route for a conditional flow."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rag.collection import Collection
from rag.errors import ConfigError
from rag.models import Completion
from rag.models.scripted import ScriptedModel
from rag.operators import operator
from rag.operators.generation import Generate
from rag.operators.orchestration import (
    AllAsked,
    Confident,
    HasHits,
    NeedsRetrieval,
    PassOn,
    Plan,
    Relevant,
    RelevantByScore,
    Sufficient,
)
from rag.operators.pre_retrieval import AddAnswer, NextQuery, Rewrite
from rag.pipelines import Loop, Pipeline, Route
from rag.types import Answer, Context, Hits, Message, Passage, Query

QUERY = Query("when do boats sail?")
CONTEXT = Context((Passage(1, 0, "d", "Boats sail in summer.", 0, 21, 1, 1.0),))


@pytest.mark.parametrize(
    ("reply", "enough"), [("yes", True), ("No", False), ("Hm.", True), ("", True), ("Answer: no", False)]
)
def test_sufficient_reads_yes_and_no_and_stops_on_nonsense(reply: str, enough: bool):
    judged = Sufficient().run(QUERY, CONTEXT, Answer("In summer."), llm=ScriptedModel(reply))
    assert judged == (enough, "sufficient" if enough else "insufficient")


def test_sufficient_can_go_on_instead():
    assert Sufficient(unclear=False).run(QUERY, CONTEXT, llm=ScriptedModel("hm")).sufficient is False


def test_sufficient_asks_nobody_about_nothing():
    llm = ScriptedModel([])
    assert Sufficient().run(QUERY, llm=llm).sufficient is False
    assert Sufficient().run(QUERY, Context(), llm=llm).sufficient is False
    assert Sufficient().run(QUERY, CONTEXT, Answer("not there", found=False), llm=llm).sufficient is False
    assert llm.calls == []


def test_sufficient_shows_question_passages_and_answer():
    llm = ScriptedModel("yes")
    Sufficient().run(QUERY, CONTEXT, Answer("In July."), llm=llm)
    prompt = llm.calls[0].messages[-1].content
    assert "when do boats sail?" in prompt
    assert "[1] Boats sail in summer." in prompt
    assert "In July." in prompt


@operator(name="testing.guess")
def guess(query: Query, answer: Answer | None = None) -> Answer:
    """One word more each time."""
    return Answer(f"{answer.text} more" if answer else "little")


def test_a_loop_runs_until_it_is_sufficient():
    llm = ScriptedModel({"Answer: little more more\n": "yes", "settled": "no"})
    state = Pipeline(Loop(guess(), until=Sufficient(), at_most=10), llm=llm).run("how much?")
    assert state.round == 3
    assert state.sufficient is True


def test_a_judge_is_a_router_too():
    ways = Route(NeedsRetrieval(), retrieve=guess(), answer=PassOn() >> guess())
    assert Pipeline(ways, llm=ScriptedModel("no")).run("hello").route == "answer"


@pytest.mark.parametrize(
    ("reply", "need"), [("yes", True), ("no", False), ("No, it is a greeting.", False), ("???", True), ("", True)]
)
def test_when_in_doubt_documents_are_looked_up(reply: str, need: bool):
    assert NeedsRetrieval().run(QUERY, ScriptedModel(reply)) == (need, "retrieve" if need else "answer")


def completion(text: str, *probabilities: float, tokens: tuple[str, ...] | None = None) -> Completion:
    return Completion(text, logprobs=tuple(math.log(p) for p in probabilities), tokens=tokens)


def test_confident_when_every_token_is_likely_enough():
    tokens = ("Boats", " sail", " today.")
    for least, sure in ((0.41, True), (0.39, False)):
        llm = ScriptedModel([completion("Boats sail today.", 0.9, least, 0.8, tokens=tokens)])
        judged = Confident(probability=0.4).run(QUERY, llm=llm)
        assert (judged.confident, judged.route) == (sure, "confident" if sure else "unsure")
        assert judged.draft.text == "Boats sail today."
        assert judged.draft.score == pytest.approx(least)


def test_only_the_first_sentence_is_drafted_and_judged():
    tokens = ("It", " rains.", " Perhaps", " not.")
    judged = Confident().run(
        QUERY, llm=ScriptedModel([completion("It rains. Perhaps not.", 0.9, 0.9, 0.1, 0.1, tokens=tokens)])
    )
    assert (judged.confident, judged.draft.text) == (True, "It rains.")


def test_without_probabilities_or_words_it_is_not_sure():
    assert Confident().run(QUERY, llm=ScriptedModel("In summer.")).confident is False
    assert Confident(unclear=True).run(QUERY, llm=ScriptedModel("In summer.")).confident is True
    assert Confident(unclear=True).run(QUERY, llm=ScriptedModel("")).confident is False
    assert Confident().run(QUERY, llm=ScriptedModel("In summer.", logprob=math.log(0.9))).confident is True


def test_an_unsure_draft_becomes_the_next_query():
    llm = ScriptedModel({"Answer: $": completion("Perhaps in May.", 0.2, 0.2, 0.2), "Query:$": "boats in May"})
    flow = Confident() >> Rewrite()
    assert Pipeline(flow, llm=llm).run(QUERY).query.text == "boats in May"
    assert "Perhaps in May." in llm.calls[1].messages[-1].content


def said(*parts: tuple[str, float]) -> Answer:
    text = "".join(token for token, _ in parts).strip()
    return Answer(text, tokens=tuple(t for t, _ in parts), logprobs=tuple(math.log(p) for _, p in parts))


def test_an_answer_that_brings_its_probabilities_is_judged_itself():
    llm = ScriptedModel([])
    for least, sure in ((0.41, True), (0.39, False)):
        answer = said(("Boats", 0.9), (" sail", least), (" now", 0.8), (" [", 0.1), ("1", 0.1), ("].", 0.1))
        judged = Confident().run(QUERY, CONTEXT, answer, llm=llm)
        assert (judged.confident, judged.route) == (sure, "confident" if sure else "unsure")
        assert judged.draft == Answer("Boats sail now [1].", score=pytest.approx(least))
    missing = Answer("Not there.", found=False)
    assert Confident().run(QUERY, CONTEXT, missing, llm=llm) == (False, missing, "unsure")
    assert Confident().run(QUERY, CONTEXT, said(("[1]", 0.9)), llm=llm).confident is True
    assert llm.calls == []


def test_an_answer_without_probabilities_is_judged_by_its_next_sentence():
    llm = ScriptedModel("In summer.", logprob=math.log(0.9))
    judged = Confident().run(QUERY, CONTEXT, Answer("Boats sail."), llm=llm)
    assert (judged.confident, judged.draft.text) == (True, "In summer.")
    assert llm.calls[0].messages[-1].content.endswith("Answer: Boats sail.")


def test_words_that_are_not_sure_are_not_searched_for():
    answer = said(("In", 0.9), (" Ma", 0.9), ("y", 0.2), (" boats", 0.5), (" [1]", 0.9), (" sail", 0.1), (".", 0.9))
    assert AddAnswer(probability=0.4).run(QUERY, answer).text == "when do boats sail? In boats"
    assert AddAnswer().run(QUERY, answer).text == f"when do boats sail? {answer.text}"
    assert AddAnswer(probability=0.4).run(QUERY, Answer("In May.")).text == "when do boats sail? In May."


def test_a_loop_ends_when_what_was_generated_is_sure():
    llm = ScriptedModel(
        [
            completion("Boats sail in May.", 0.9, 0.9, 0.9, 0.1, tokens=("Boats", " sail", " in", " May.")),
            completion("Boats sail in summer.", 0.9, 0.9, 0.9, 0.8, tokens=("Boats", " sail", " in", " summer.")),
        ]
    )
    body = context() >> Generate()
    state = Pipeline(Loop(body, until=Confident(), at_most=5), llm=llm).run(QUERY)
    assert (state.round, state.answer.text) == (2, "Boats sail in summer.")
    assert len(llm.calls) == 2


@operator(name="testing.context")
def context(query: Query) -> Context:
    """One passage."""
    return CONTEXT


def test_has_hits():
    hits = Hits([1, 2, 3], [0.9, 0.5, 0.1])
    assert HasHits().run(hits) == (True, "hits")
    assert HasHits().run(Hits()) == (False, "no_hits")
    assert HasHits(at_least=2, score=0.5).run(hits).has_hits is True
    assert HasHits(at_least=3, score=0.5).run(hits).has_hits is False
    assert HasHits().run(None, CONTEXT).has_hits is True
    assert HasHits().run(None, Context()).has_hits is False
    assert HasHits().run().has_hits is False


@pytest.mark.parametrize(
    ("scores", "route", "kept"),
    [([0.9, 0.4, 0.1], "correct", 2), ([0.5, 0.1], "ambiguous", 1), ([0.2, 0.1], "incorrect", 0), ([], "incorrect", 0)],
)
def test_retrieval_is_graded_by_its_best_score(scores: list[float], route: str, kept: int):
    graded = RelevantByScore(upper=0.7, lower=0.3).run(Hits(range(len(scores)), scores))
    assert (graded.route, len(graded.hits)) == (route, kept)


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match="`lower` is 0.9, more than `upper`"):
        RelevantByScore(upper=0.7, lower=0.9)


def test_a_model_grades_each_hit(kb: Collection):
    hits = Hits(kb.chunk_ids(), np.array([0.9, 0.8, 0.7, 0.6]), store=kb)
    llm = ScriptedModel({"sail on": "yes", "freezes": "no", "yellow": "who knows", "euros": "No."})
    graded = Relevant().run(QUERY, hits, llm)
    assert graded.route == "correct"
    assert [c.document for c in graded.hits.chunks()] == ["summer.md", "storm.md"]
    assert Relevant(enough=2).run(QUERY, hits, llm).route == "ambiguous"
    assert Relevant(k=1).run(QUERY, hits, llm) == (Hits(), "incorrect")
    assert Relevant().run(QUERY, hits, ScriptedModel("hm")).route == "ambiguous"
    assert Relevant().run(QUERY, hits, ScriptedModel("no")).route == "incorrect"
    none = ScriptedModel([])
    assert Relevant().run(QUERY, Hits(), none).route == "incorrect"
    assert none.calls == []


def test_grades_of_a_batch_stay_with_their_items(kb: Collection):
    llm = ScriptedModel({"sail on": "yes", "": "no"})
    ids = kb.chunk_ids()
    batch = [Hits(ids[:1], [1.0], store=kb), Hits(), Hits(ids, [4, 3, 2, 1], store=kb), Hits(ids[1:2], [1.0], store=kb)]
    graded = Relevant(concurrency=3).run_batch([QUERY] * 4, batch, llm=llm)
    assert [g.route for g in graded] == ["incorrect", "incorrect", "correct", "correct"]
    assert graded == [Relevant().run(QUERY, hits, llm) for hits in batch]


def test_a_plan_is_carried_out_step_by_step():
    llm = ScriptedModel("Steps:\n1. Find the season\n2. Find the boats")
    flow = Plan() >> Loop(NextQuery() >> guess(), until=AllAsked(), at_most=5)
    state = Pipeline(flow, llm=llm).run("when do boats sail?")
    assert [q.text for q in state.queries] == ["Find the season", "Find the boats", "when do boats sail?"]
    assert (state.round, state.answer.text, state.query.text) == (3, "little more more", "when do boats sail?")


def test_a_plan_knows_what_was_found_and_falls_back_to_the_question():
    llm = ScriptedModel("\n")
    assert Plan().run(QUERY, [Message("assistant", "The season is summer.")], llm=llm) == [QUERY]
    assert "The season is summer." in llm.calls[0].messages[-1].content
    assert [q.text for q in Plan(n=2, with_original=False).run(QUERY, llm=ScriptedModel("a\nb\nc"))] == ["a", "b"]
