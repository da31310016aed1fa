"""Ensembles over passages: tokens against a plain mixture, votes of models that only chat, places afterwards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.collection import Collection
from rag.errors import ConfigError
from rag.models.local import TransformersModel
from rag.models.scripted import ScriptedModel
from rag.operators.generation import Ensemble
from rag.operators.post_retrieval import BuildContext
from rag.operators.retrieval import BM25
from rag.pipelines import Pipeline, Run, Token
from rag.types import Answer, Context, Passage, Query
from tests.models.tiny import TEXTS, mixed, save_tiny_models

LAKE = "Boats are many. The lake freezes in January."
POND = "The pond freezes in February. It is small."
COLD = "The lake freezes in January, says the warden."
QUERY = Query("When does the lake freeze?")


def context(*texts: str, scores: tuple[float, ...] = (0.8, 0.0, 0.5)) -> Context:
    rows = zip(texts, scores, strict=False)
    return Context(
        tuple(Passage(n, n, f"{n}.txt", text, 0, len(text), 1, score) for n, (text, score) in enumerate(rows, 1))
    )


THREE = context(LAKE, POND, COLD)


class Chats:
    """A scripted model of which only the chat is to be had."""

    def __init__(self, script: Any) -> None:
        self._model = ScriptedModel(script)

    def __getattr__(self, name: str) -> Any:
        if name in ("token_ends", "score", "score_batch", "stream_mixture"):
            raise AttributeError(name)
        return getattr(self._model, name)


def answer(operator: Ensemble, given: Context, llm: Any, query: Query = QUERY) -> Answer:
    """The answer, whose text is what was streamed."""
    stream = operator.run(query, given, llm=llm)
    shown = ""
    while True:
        try:
            shown += next(stream).text
        except StopIteration as end:
            answer = end.value
            break
    assert answer.text == shown
    return answer


REPLIES = {
    "Boats": "In January it is.",
    "pond": "In February.",
    "warden": "In January. So they say.",
}


def test_passages_decide_on_each_word_by_the_softmax_of_their_scores():
    llm = ScriptedModel(REPLIES)
    got = answer(Ensemble(), THREE, llm)
    first, second, third = np.exp([0.8, 0.0, 0.5]) / np.exp([0.8, 0.0, 0.5]).sum()
    assert got.text == "In January it is."
    assert np.exp(got.logprobs) == pytest.approx([1.0, first, first, first])
    assert second < third < first
    assert answer(Ensemble(), context(LAKE, POND, COLD, scores=(0.0, 3.0, 0.0)), llm).text == "In February."
    assert len(llm.calls) == 6


def test_each_prompt_holds_one_passage():
    llm = ScriptedModel("Yes.")
    answer(Ensemble(), THREE, llm)
    for call, text in zip(llm.calls, (LAKE, POND, COLD), strict=True):
        said = call.messages[-1].content
        assert text in said
        assert QUERY.text in said
        assert sum(other in said for other in (LAKE, POND, COLD)) == 1


def test_temperature_sharpens():
    llm = ScriptedModel({"Boats": "No.", "pond": "Yes.", "warden": "Yes."})
    assert answer(Ensemble(), THREE, llm).text == "Yes."
    assert answer(Ensemble(temperature=0.1), THREE, llm).text == "No."


def test_sentences_get_the_place_that_supports_them():
    got = answer(Ensemble(), THREE, ScriptedModel("The lake freezes in January. Cows fly."))
    assert [(c.number, c.document, c.quote) for c in got.citations] == [(1, "1.txt", "The lake freezes in January.")]
    assert got.score == 0.5
    swapped = context(LAKE, POND, COLD, scores=(0.0, 0.5, 1.0))
    assert [c.number for c in answer(Ensemble(), swapped, ScriptedModel("The lake freezes.")).citations] == [3]


def test_nothing_said_or_nothing_to_read_is_not_found():
    llm = ScriptedModel("  \n ")
    for model in (llm, Chats(" ")):
        got = answer(Ensemble(not_found="No idea."), THREE, model)
        assert (got.text, got.found, got.citations) == ("No idea.", False, ())
        assert got.usage.calls == 3
    assert answer(Ensemble(), Context(), ScriptedModel([])) == Answer(Ensemble().not_found, found=False, score=0.0)


def test_a_model_that_only_chats_lets_its_answers_vote():
    llm = Chats({"Boats": "in February", "pond": "January", "warden": "The January!"})
    got = answer(Ensemble(), THREE, llm)
    assert (got.text, got.logprobs) == ("The January!", None)  # articles and marks do not count
    assert got.usage.calls == 3
    assert [c.number for c in got.citations] == [1]  # the best passage that says so
    assert answer(Ensemble(temperature=0.1), THREE, llm).text == "in February"


@pytest.mark.parametrize("kind", [ScriptedModel, Chats])
def test_a_batch_equals_one_by_one(kind: Any):
    contexts = [THREE, Context(), context(POND), context(COLD, LAKE)]
    queries = [QUERY, QUERY, Query("And the pond?"), QUERY]
    llm = kind(REPLIES)
    batch = Ensemble().run_batch(queries, contexts, llm=llm)
    alone = [answer(Ensemble(), c, llm, q) for q, c in zip(queries, contexts, strict=True)]
    assert batch == alone
    assert [a.found for a in batch] == [True, False, True, True]


def test_a_passage_too_large_for_the_window_is_cut_at_its_end():
    llm = ScriptedModel("Yes.", context_tokens=80)
    answer(Ensemble(max_tokens=8), context("Boats are many. " * 60, POND), llm)
    assert QUERY.text in llm.calls[0].messages[-1].content
    assert "Boats are many." in llm.calls[0].messages[-1].content


def test_a_prompt_without_its_placeholder_is_refused(tmp_path: Path):
    (tmp_path / "mine.md").write_text("{question}")
    with pytest.raises(ConfigError, match=r"no placeholder \{passage\}"):
        answer(Ensemble(prompt="mine", prompts=str(tmp_path)), THREE, ScriptedModel())


def test_in_a_pipeline_it_streams_and_is_counted(kb: Collection):
    flow = BM25(k=3) >> BuildContext() >> Ensemble()
    pipeline = Pipeline(flow, collection=kb, llm=ScriptedModel("Renting a boat costs twenty euros."))
    run = Run()
    state = pipeline.run("what does renting a boat cost", observe=run)
    assert [c.document for c in state.answer.citations] == ["rent.md"]
    spans = {span.node: span for span in run.spans if span.kind == "operator"}
    calls = sum(span.usage.calls for span in spans.values() if span.usage)
    assert calls == state.answer.usage.calls == len(state.context)
    tokens = [event.text for event in pipeline.stream("what does renting a boat cost") if isinstance(event, Token)]
    assert "".join(tokens) == state.answer.text


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("torch", reason="needs the extra `local`")
    pytest.importorskip("transformers", reason="needs the extra `local`")
    return save_tiny_models(tmp_path_factory.mktemp("tiny"), context=256)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma"])
def test_tokens_are_those_of_the_plain_mixture(name: str, tiny: dict[str, Path], tmp_path: Path):
    model = TransformersModel(tiny[name], threads=1)
    (tmp_path / "bare.md").write_text("{passage} {question}")
    passages = context(*TEXTS[:3], scores=(0.3, 0.1, 0.2))
    operator = Ensemble(prompt="bare", prompts=str(tmp_path), max_tokens=16, temperature=0.2)
    got = answer(operator, passages, model)
    weights = [math.exp(s / 0.2) for s in (0.3, 0.1, 0.2)]
    ids, logprobs = mixed(model, [f"{text} {QUERY.text}" for text in TEXTS[:3]], weights, 16)
    assert got.text == model._decode(ids).strip()
    assert got.logprobs == pytest.approx(logprobs, abs=2e-4)


@pytest.mark.torch
@pytest.mark.slow
def test_gemma_reads_passages_together(gemma: TransformersModel):
    operator = Ensemble(max_tokens=12)
    got = answer(operator, THREE, gemma)
    prompts = ["\n\n".join(m.content for m in own) for own in operator._prompts(QUERY, THREE, gemma)]
    ids, logprobs = mixed(gemma, prompts, [math.exp(s) for s in (0.8, 0.0, 0.5)], 4)
    assert "".join(got.tokens or ())[: len(gemma._decode(ids))] == gemma._decode(ids)
    assert got.logprobs is not None
    assert got.logprobs[:4] == pytest.approx(logprobs, abs=1e-3)
    assert got.usage.calls == 3
