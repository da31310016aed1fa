"""rag cache check: what it tells of a collection, and that answers then follow it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag.collection import Collection
from rag.kvcache.quality import by_share
from rag.kvcache.verdict import FILE
from rag.operators.generation import Generate
from rag.pipelines import Pipeline, Run
from rag.serve.asking import passages_for
from rag.serve.metrics import exposition
from rag.serve.service import Service
from rag.types import Query
from tests.models.tiny import save_tiny_models
from tests.serve.conftest import RagCommand

QUESTIONS = ("sheet rope sail", "flour and butter", "Größe des Segels", "sauces", "mainsail 1492")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_tiny_models(tmp_path_factory.mktemp("models"), context=4096)


@pytest.fixture
def kb(rag: RagCommand, documents: Path, tmp_path: Path) -> Path:
    assert rag("index", tmp_path / "kb", documents).code == 0
    return tmp_path / "kb"


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "questions.txt"
    file.write_text("\n".join((*QUESTIONS, "", "never asked")), encoding="utf-8")
    return file


def reports(kb: Path, model: str, quality: str) -> set[str]:
    """The strategies that prompts are read with."""
    with Collection.open(kb) as collection:
        flow = passages_for(collection, None, 3) >> Generate(kv_cache="auto", quality=quality, max_tokens=1)
        run = Run()
        Pipeline(flow, collection=collection, llm=model).run(Query(QUESTIONS[0]), observe=run)
        return {str(report).partition(":")[0] for span in run.spans for report in span.prefills}


@pytest.mark.torch
def test_answers_follow_the_verdict(rag: RagCommand, kb: Path, questions: Path, models: dict[str, Path]):
    model = f"local:{models['llama']}"
    assert reports(kb, model, "agreement=0") == {"prefix"}
    done = rag("cache", "check", kb, "--llm", model, "--questions", questions, "-n", 5, "-k", 3, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert found["verdict"] == str(kb / FILE)
    assert [row["strategy"] for row in found["findings"]] == ["naive", *[by_share(0.1).name] * 3]
    for row in found["findings"]:
        assert row["prompts"] == 5
        assert row["agreement"] == row["agreed"] / 5
        assert row["interval"][0] <= row["agreement"] <= row["interval"][1]
        assert 0 < row["work"] < 1
    assert found["strategy"] is None  # five prompts cannot show 0.95
    assert reports(kb, model, "agreement=0.95") == {"prefix"}
    cheapest = min(found["findings"], key=lambda row: row["work"])
    assert reports(kb, model, "agreement=0") == {cheapest["strategy"]}
    assert reports(kb, f"local:{models['gemma']}", "agreement=0") == {"prefix"}


@pytest.mark.torch
def test_the_verdict_is_told(rag: RagCommand, kb: Path, models: dict[str, Path]):
    model = f"local:{models['llama']}"
    done = rag("cache", "check", kb, "--llm", model, "-n", 3, "--quality", "agreement=0.1", "--tokens", 2)
    assert done.code == 0, done.err
    assert "agreement=0.1 is shown" in done.out
    assert f"{by_share(0.2).name} share 0.2" in done.out
    again = rag("cache", "check", kb, "--llm", model, "-n", 3, "--tokens", 2)
    assert "only exact prefixes are reused" in again.out


@pytest.mark.torch
def test_a_model_whose_chunks_cannot_move_is_told(rag: RagCommand, kb: Path, models: dict[str, Path]):
    done = rag("cache", "check", kb, "--llm", f"local:{models['gpt2']}", "-n", 2)
    assert done.code == 2
    assert "positions" in done.err
    assert not (kb / FILE).exists()


def test_wrong_options_are_told(rag: RagCommand, kb: Path, tmp_path: Path):
    assert "--llm" in rag("cache", "check", kb).err
    assert "out of reach" in rag("cache", "check", kb, "--llm", "scripted").err
    done = rag("cache", "check", kb, "--llm", "scripted", "--quality", "recompute=0.2")
    assert done.code == 2
    assert "agreement=SHARE" in done.err


@pytest.mark.torch
def test_missing_questions_are_told(rag: RagCommand, kb: Path, tmp_path: Path, models: dict[str, Path]):
    model = f"local:{models['llama']}"
    assert rag("cache", "check", kb, "--llm", model, "--questions", tmp_path / "no.txt").code == 3
    (tmp_path / "empty.txt").write_text("\n")
    assert rag("cache", "check", kb, "--llm", model, "--questions", tmp_path / "empty.txt").code == 2


@pytest.mark.torch
def test_ask_takes_the_knob(rag: RagCommand, kb: Path, models: dict[str, Path]):
    model = f"local:{models['llama']}"
    assert rag("ask", kb, "a sail?", "--llm", model, "--quality", "nonsense").code == 2
    assert rag("ask", kb, "a sail?", "--llm", model, "-k", 2).code == 0


@pytest.mark.torch
def test_a_service_counts_tokens_and_chunks(kb: Path, models: dict[str, Path]):
    with Collection.open(kb) as collection:
        flow = passages_for(collection, None, 3) >> Generate(kv_cache="chunks", quality="recompute=0.2", max_tokens=1)
        pipeline = Pipeline(flow, collection=collection, llm=f"local:{models['llama']}", name="p").bind()
        service = Service([pipeline])
        for _ in range(2):
            run = Run()
            pipeline.run(Query(QUESTIONS[0]), observe=run)
            service._note_spans("p", run.spans)
        told = exposition(service.metrics)
        node = next(span.node for span in run.spans if span.prefills)
        assert service.cached_chunks.value(pipeline="p", node=node, outcome="hit") > 0
        assert service.cached_chunks.value(pipeline="p", node=node, outcome="miss") > 0
        for what in ("reused", "recomputed", "stored"):
            assert service.prompt_tokens.value(pipeline="p", node=node, outcome=what) > 0
        assert f'rag_kvcache_tokens_total{{node="{node}",outcome="recomputed",pipeline="p"}}' in told
        assert service.held.value > 0
