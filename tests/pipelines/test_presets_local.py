"""Every ready-made pipeline runs from end to end on a real, small language model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rag.collection import Collection
from rag.models import ChatModel
from rag.operators.asking import Asking
from rag.operators.generation import Ensemble, Generate
from rag.operators.indexing.ingest import index_paths
from rag.operators.registry import catalogue
from rag.pipelines import Pipeline, Run
from rag.pipelines.yaml import PRESETS, preset_names
from rag.types import Answer, Hits

pytestmark = [pytest.mark.slow, pytest.mark.torch]

NOTES = {
    "ada.md": "# Ada\n\nAda Lovelace wrote the first program.\n",
    "engine.md": "# Engine\n\nCharles Babbage designed the Analytical Engine.\n",
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
        yield made


def brief(flow: Any) -> Any:
    """A flow whose models write a few words only, that looks at two hits, and goes round twice at most."""
    if isinstance(flow, list):
        return [brief(step) for step in flow]
    if isinstance(flow, str):
        return {flow: limits} if (limits := _limits(flow)) else flow
    if not isinstance(flow, dict):
        return flow
    if "flows" in flow:  # of a route: the keys are names, not operators
        return {**flow, "by": brief(flow["by"]), "flows": {way: brief(own) for way, own in flow["flows"].items()}}
    return {
        key: {**brief(value), **limits} if (limits := _limits(key)) else brief(value) for key, value in flow.items()
    }


def _limits(name: str) -> dict[str, Any]:
    flows = {"loop": {"at_most": 2}, "each": {"at_most": 2}, "verify": {"at_most": 1}, "recurse": {"max_nodes": 2}}
    if name in flows:
        return flows[name]
    cls = next((cls for full, cls in catalogue().items() if full.partition(".")[2] == name), None)
    if cls is None:
        return {}
    if issubclass(cls, Asking | Generate | Ensemble):
        return {"max_tokens": 6}
    return {"k": 2} if "k" in cls.model_fields else {}


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_runs_on_a_real_model(name: str, gemma: ChatModel, kb: Collection):
    preset = yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    preset["flow"] = brief(preset["flow"])
    pipeline = Pipeline.from_yaml(yaml.safe_dump(preset, sort_keys=False), collection=kb, llm=gemma)
    run = Run()
    state = pipeline.run(QUESTION, observe=run)
    assert state.query.text == QUESTION
    if "answer" not in pipeline.outputs:
        assert isinstance(state.hits, Hits)
        return
    assert isinstance(state.answer, Answer)
    assert state.answer.text.strip()
    for citation in state.answer.citations:
        assert kb.text(citation.document, citation.start, citation.end) == citation.quote
    if name != "extractive":
        calls = sum(span.usage.calls for span in run.spans if span.usage)
        assert calls >= 1
    if name == "flare":  # what was generated brings its probabilities: judging them takes no call
        judged = [span for span in run.spans if span.node.rpartition("/")[2] == "confident"]
        assert judged
        assert not any(span.usage.calls for span in judged if span.usage)
