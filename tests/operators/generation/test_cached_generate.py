"""Generate over cached keys and values: the same answers where that is promised, and what the trace tells."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rag.collection import Collection
from rag.errors import ConfigError
from rag.kvcache import CacheBlend, Prefix
from rag.kvcache.hosting import held_bytes, manager_of
from rag.kvcache.verdict import FILE, Finding, Verdict, keep_verdict, settings_of
from rag.models import Completion, load
from rag.models.local import TransformersModel
from rag.models.scripted import ScriptedModel
from rag.operators.generation import Generate
from rag.operators.generation.reading import template_of
from rag.operators.prompts import load_prompt
from rag.pipelines import Pipeline, Run
from rag.types import Answer, Context, Message, Passage, Query
from tests.models.tiny import save_tiny_models

TEXTS = (
    "the cat sat on the mat and the dog lay in the yard",
    "a question is a sentence that asks for an answer",
    "Grüße aus Köln, and a cat in the yard",
    "the mat and the yard are far from the sea",
)
ORDERS = [(0, 1, 2), (2, 1, 0), (0, 1, 3), (3, 2, 0), (0, 1, 2)]
ALL_AGAIN = {"kv_cache": "chunks", "quality": "recompute=1"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_tiny_models(tmp_path_factory.mktemp("models"), context=512)


@pytest.fixture
def llm(folders: dict[str, Path]) -> TransformersModel:
    return TransformersModel(folders["gemma"], threads=1)


@pytest.fixture(autouse=True)
def short_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "answer.md").write_text("be brief\n---\nPassages:\n\n{passages}\n\nQuestion: {question}")
    monkeypatch.setenv("RAG_PROMPTS", str(tmp_path))


def context(*order: int) -> Context:
    passages = (
        Passage(n, row, f"{row}.md", TEXTS[row], 0, len(TEXTS[row]), 1, 0.5, {}) for n, row in enumerate(order, 1)
    )
    return Context(tuple(passages))


def answers(llm: Any, resources: dict[str, Any] | None = None, **settings: Any) -> list[Answer]:
    """Of a question to each order of passages."""
    generate = Generate(**{"max_tokens": 6, "unsupported": "mark", **settings})
    return [finished(generate.run(Query("a cat?"), context(*order), llm=llm, **(resources or {}))) for order in ORDERS]


def finished(stream: Iterator[Any]) -> Answer:
    while True:
        try:
            next(stream)
        except StopIteration as end:
            answer: Answer = end.value.answer
            return answer


def same(one: list[Answer], other: list[Answer]) -> None:
    """Texts, tokens and their probabilities; the usage but for what came out of a cache."""
    for a, b in zip(one, other, strict=True):
        assert (a.text, a.found, a.tokens, a.citations) == (b.text, b.found, b.tokens, b.citations)
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-3)
        assert (a.usage.prompt_tokens, a.usage.completion_tokens) == (b.usage.prompt_tokens, b.usage.completion_tokens)


@pytest.mark.torch
@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2"])
@pytest.mark.parametrize(
    "settings", [{"kv_cache": "prefix"}, {"kv_cache": "chunks", "quality": "exact"}, {"kv_cache": "auto"}, ALL_AGAIN]
)
def test_what_is_exact_gives_the_same_answers(folders: dict[str, Path], family: str, settings: dict[str, Any]):
    """Prefixes, and chunks of which all is computed again; also of a model whose chunks cannot be moved (GPT-2)."""
    llm = TransformersModel(folders[family], threads=1)
    plain, cached = answers(llm), answers(llm, **settings)
    same(plain, cached)
    assert all(answer.usage.cached_tokens == 0 for answer in plain)
    if "quality" not in settings or settings["quality"] == "exact":
        prompt = cached[-1].usage.prompt_tokens
        assert cached[0].usage.cached_tokens == 0
        assert cached[2].usage.cached_tokens > prompt // 2  # the instructions and two passages of the first prompt
        assert cached[-1].usage.cached_tokens > prompt * 2 // 3


@pytest.mark.torch
def test_chunks_are_reused_in_any_order(llm: TransformersModel):
    found = answers(llm, kv_cache="chunks", quality="recompute=0.1")
    assert found[1].usage.cached_tokens > found[1].usage.prompt_tokens // 3
    same(found, answers(llm, kv_cache="chunks", quality="recompute=0.1"))  # whatever the store held before


@pytest.mark.torch
@pytest.mark.parametrize("settings", [{"temperature": 1.0}, {"stop": ("e",)}, {"max_tokens": 1}, {"not_found": "no"}])
def test_other_settings_do_what_they_did(folders: dict[str, Path], settings: dict[str, Any]):
    plain, cached = (TransformersModel(folders["gemma"], threads=1, seed=3) for _ in range(2))
    same(answers(plain, **settings), answers(cached, kv_cache="prefix", **settings))


@pytest.mark.torch
def test_batches_and_threads_change_nothing(llm: TransformersModel, folders: dict[str, Path]):
    contexts = [context(*order) for order in ORDERS] * 2
    queries = [Query(f"question {n}?") for n in range(len(contexts))]
    generate = Generate(max_tokens=4, kv_cache="chunks", quality="recompute=0.2")
    alone = [finished(generate.run(q, c, llm=llm)) for q, c in zip(queries, contexts, strict=True)]
    fresh = TransformersModel(folders["gemma"], threads=1)
    batch = generate.run_batch(queries, contexts, [None] * len(queries), llm=fresh)
    same(alone, [generated.answer for generated in batch])
    another = TransformersModel(folders["gemma"], threads=1)
    with ThreadPoolExecutor(4) as pool:
        at_once = pool.map(lambda q, c: finished(generate.run(q, c, llm=another)), queries, contexts)
    same(alone, list(at_once))


@pytest.mark.torch
def test_a_model_that_cannot_be_run_in_parts_reads_in_full(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    size = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(**size, num_attention_heads=2, max_position_embeddings=512, rope_parameters=rope)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "dynamic")
    AutoTokenizer.from_pretrained(folders["llama"]).save_pretrained(tmp_path / "dynamic")
    llm = TransformersModel(tmp_path / "dynamic", threads=1)
    with caplog.at_level(logging.WARNING, "rag.kvcache"):
        cached = answers(llm, kv_cache="chunks", quality="recompute=0.2")
    same(answers(llm), cached)
    assert "computed in full" in caplog.text
    assert not any(answer.usage.cached_tokens for answer in cached)


@pytest.mark.torch
def test_in_a_conversation_only_prefixes_are_reused(llm: TransformersModel):
    memory = [Message("user", "who?"), Message("assistant", "a cat.")]
    plain, cached = (
        finished(Generate(max_tokens=4, **s).run(Query("where?"), context(0, 1, 2), memory, llm=llm))
        for s in ({}, {"kv_cache": "chunks", "quality": "recompute=0"})
    )
    same([plain], [cached])


@pytest.mark.parametrize("kv_cache", ["prefix", "chunks"])
def test_a_model_that_runs_elsewhere_is_refused(kv_cache: str):
    with pytest.raises(ConfigError, match=r"kv_cache.*scripted"):
        answers(ScriptedModel("Yes."), kv_cache=kv_cache)


def test_auto_leaves_a_model_that_runs_elsewhere_alone():
    assert answers(ScriptedModel("a cat."), kv_cache="auto") == answers(ScriptedModel("a cat."))


def test_settings_survive_yaml():
    flow = Generate(kv_cache="chunks", quality="recompute = 0.2")
    assert flow.quality == "recompute=0.2"
    pipeline = Pipeline(flow, inputs={"query": Query, "context": Context}, llm="scripted")
    again = Pipeline.from_yaml(pipeline.to_yaml())
    assert again.to_yaml() == pipeline.to_yaml()
    assert "kv_cache: chunks" in pipeline.to_yaml()


@pytest.mark.parametrize("quality", ["0.9", "agreement=2", "fast"])
def test_an_unknown_quality_is_refused(quality: str):
    with pytest.raises(ConfigError, match="quality"):
        Generate(quality=quality)


@pytest.mark.torch
def test_the_trace_tells_how_prompts_were_read(llm: TransformersModel):
    flow = Generate(max_tokens=3, kv_cache="chunks", quality="recompute=0.2")
    pipeline = Pipeline(flow, inputs={"query": Query, "context": Context}, llm=llm)
    spans = []
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):  # the last has nothing in a place where it never was
        run = Run()
        pipeline.run({"query": Query("a cat?"), "context": context(*order)}, observe=run)
        spans.append(next(span for span in run.spans if span.node == "generate"))
    cold, _, warm = (span.prefills[0] for span in spans)
    assert (cold.hits, cold.misses, warm.hits, warm.misses) == (0, 3, 3, 0)
    assert cold.stored > 0
    assert warm.stored == 0
    assert warm.reused + warm.recomputed == warm.tokens == spans[2].usage.prompt_tokens
    assert spans[2].usage.cached_tokens == warm.reused > 0
    assert "tokens reused" in spans[2].note
    assert held_bytes() > 0


class TestVerdicts:
    """What a check of the collection has shown opens the reuse of chunks, and nothing else does."""

    @pytest.fixture
    def kb(self, tmp_path: Path) -> Iterator[Collection]:
        with Collection.create(tmp_path / "kb", encoder="hashing:64") as made:
            yield made

    def keep(self, llm: TransformersModel, kb: Collection, **changed: Any) -> None:
        found = Finding("cacheblend", settings_of(CacheBlend(0.2)), 100, changed.pop("agreed", 100), 0, 1, 0.3, 0.3)
        template = template_of(load_prompt("answer"), Generate().not_found, llm)
        known = {"model": manager_of(llm, Prefix()).known_as, "template": template, "chunks": 3}
        keep_verdict(kb.path, Verdict(**{**known, **changed}, findings=(found,)))

    def strategies(self, llm: TransformersModel, kb: Collection, **settings: Any) -> set[str]:
        flow = Generate(**{"max_tokens": 2, "kv_cache": "auto", **settings})
        pipeline = Pipeline(flow, inputs={"query": Query, "context": Context}, llm=llm, collection=kb)
        run = Run()
        pipeline.run_batch([{"query": Query("a cat?"), "context": context(*order)} for order in ORDERS], observe=run)
        return {str(report).partition(":")[0] for span in run.spans for report in span.prefills}

    @pytest.mark.torch
    def test_one_that_passed_opens_it(self, llm: TransformersModel, kb: Collection):
        assert self.strategies(llm, kb) == {"prefix"}
        self.keep(llm, kb)
        assert self.strategies(llm, kb) == {"cacheblend"}
        assert self.strategies(llm, kb, quality="exact") == {"prefix"}
        assert self.strategies(llm, kb, quality="agreement=0.99") == {"prefix"}
        assert self.strategies(llm, kb, kv_cache="prefix") == {"prefix"}
        assert self.strategies(llm, kb, not_found="Nothing.") == {"prefix"}  # another prompt

    @pytest.mark.torch
    @pytest.mark.parametrize("changed", [{"model": "another"}, {"template": "another"}, {"chunks": 2}, {"agreed": 90}])
    def test_one_on_something_else_does_not(self, llm: TransformersModel, kb: Collection, changed: dict[str, Any]):
        self.keep(llm, kb, **changed)
        assert self.strategies(llm, kb) == {"prefix"}

    @pytest.mark.torch
    def test_a_damaged_one_does_not(self, llm: TransformersModel, kb: Collection):
        self.keep(llm, kb, agreed=90)
        path = kb.path / FILE
        path.write_text(path.read_text().replace('"agreed": 90', '"agreed": 100'))
        assert self.strategies(llm, kb) == {"prefix"}


@pytest.mark.torch
def test_what_does_not_fit_the_context_is_refused_before_it_is_read(llm: TransformersModel):
    from rag.errors import ModelError
    from rag.models import Prefill

    def read() -> Any:
        raise AssertionError("it was read")

    with pytest.raises(ModelError, match="context"):
        list(llm.stream([Message("user", "a")], max_tokens=500, prefill=Prefill((1,) * 100, read)))


@pytest.mark.torch
@pytest.mark.slow
def test_exact_reuse_gives_the_same_answers_of_a_real_model(gemma: Any):
    plain, cached = answers(gemma), answers(gemma, kv_cache="prefix")
    assert [a.text for a in plain] == [b.text for b in cached]
    assert cached[-1].usage.cached_tokens > cached[-1].usage.prompt_tokens // 2


@pytest.mark.torch
def test_a_completion_says_how_its_prompt_was_read(llm: TransformersModel):
    *_, last = llm.stream([Message("user", "a cat")], max_tokens=2)
    assert isinstance(last, Completion)
    assert last.prefill is None
    assert load("scripted").chat([Message("user", "a")]).prefill is None
