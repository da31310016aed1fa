"""Every ready-made pipeline fits together and runs, whatever the language model says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rag.collection import Collection
from rag.models.scripted import ScriptedModel
from rag.operators.indexing.ingest import index_paths
from rag.pipelines import Pipeline, Run
from rag.pipelines.yaml import PRESETS, preset_names
from rag.types import Answer, Hits
from tests.pipelines.test_yaml import VALIDATOR
from tests.relevance.synthetic import with_relevance_models

NOTES = {
    "ada.md": "# Ada\n\nAda Lovelace wrote the first program. It was for the Analytical Engine.\n",
    "engine.md": "# Engine\n\nThe Analytical Engine was designed by Charles Babbage in 1837.\n",
    "sheet.md": "# Sailing\n\nA sheet is a rope that controls a sail.\n",
}
QUESTION = "Who wrote the first program?"


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    folder: Path = tmp_path_factory.mktemp("notes")
    for name, text in NOTES.items():
        (folder / name).write_text(text, encoding="utf-8")
    with Collection.create(tmp_path_factory.mktemp("kb") / "kb", encoder="hashing:64", tokens="hashing:64") as made:
        index_paths(made, folder)
        with_relevance_models(made)
        yield made


def says(*answers: str) -> ScriptedModel:
    """A model that gives these answers in turn, the last one for ever."""
    rest = list(answers)
    return ScriptedModel(lambda messages: rest.pop(0) if len(rest) > 1 else rest[0])


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize(
    "model",
    [
        "Ada Lovelace wrote the first program [1].",
        "yes",
        "no",
        "",
        "1. Who was Ada?\n2. What is a program?\n3. Who designed the engine?",
        "{]}<>!! \x00 nonsense [99]",
    ],
)
def test_presets_run_whatever_the_model_says(name: str, model: str, kb: Collection):
    pipeline = Pipeline.from_yaml(PRESETS / f"{name}.yaml", collection=kb, llm=says(model))
    run = Run()
    state = pipeline.run(QUESTION, observe=run)
    assert state.query.text == QUESTION
    assert len(run.spans) < 200
    if "answer" in pipeline.outputs:
        assert isinstance(state.answer, Answer)
        for citation in state.answer.citations:
            assert kb.text(citation.document, citation.start, citation.end) == citation.quote
    else:
        assert isinstance(state.hits, Hits)
    assert len(pipeline.run_batch([QUESTION, "What is a sheet?"])) == 2


@pytest.mark.parametrize("name", preset_names())
def test_every_call_of_a_model_is_counted(name: str, kb: Collection):
    for way in ("run", "run_batch", "arun"):
        model = says("1. Who was Ada?\n2. What is a program?")
        pipeline = Pipeline.from_yaml(PRESETS / f"{name}.yaml", collection=kb, llm=model)
        run = Run()
        if way == "run_batch":
            pipeline.run_batch([QUESTION, "What is a sheet?"], observe=run)
        elif way == "run":
            pipeline.run(QUESTION, observe=run)
        else:
            asyncio.run(pipeline.arun(QUESTION, observe=run))
        (whole,) = [span for span in run.spans if span.kind == "pipeline"]
        assert whole.usage.calls == len(model.calls), way
        operators = [span.usage.calls for span in run.spans if span.kind == "operator"]
        assert sum(operators) == len(model.calls), way


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_described_valid_and_in_normal_form(name: str):
    text = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    VALIDATOR.validate(yaml.safe_load(text))
    pipeline = Pipeline.from_yaml(text)
    assert pipeline.name == name
    assert pipeline.description.endswith(".") or pipeline.description.endswith(").")
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline
    assert pipeline.svg().startswith("<svg")


def test_a_good_model_gives_a_cited_answer_in_each(kb: Collection):
    for name in ("naive", "rewrite", "hyde", "routed", "small_to_big", "iterative"):
        model = says("Ada Lovelace wrote the first program [1].")
        answer = Pipeline.from_yaml(PRESETS / f"{name}.yaml", collection=kb, llm=model).run(QUESTION).answer
        assert "Ada" in answer.text, name
        assert [c.document for c in answer.citations] == ["ada.md"], name
