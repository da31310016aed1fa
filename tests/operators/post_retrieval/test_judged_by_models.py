"""Critique, listwise reranking and the cross-encoder: what models say, and what becomes of replies without sense."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.collection import Collection
from rag.errors import ConfigError, MissingExtraError, ModelError
from rag.models.scripted import ScriptedModel
from rag.operators.post_retrieval import Critique, Rerank, RerankByModel, rerank
from rag.operators.retrieval import Dense
from rag.pipelines import Pipeline
from rag.types import Chunk, Hits, Message, Query

NONSENSE = [
    "",
    "  \n",
    "???",
    "{",
    "Sure! I can help.",
    "<think>",
    "yes no yes",
    "1: yes or no",
    "\x00",
    "[999]",
    "[0]",
]
QUERY = Query("which number?")


class Numbers:
    """Chunks whose text is their number."""

    def chunks(self, ids: np.ndarray) -> list[Chunk]:
        return [Chunk("d", f"number {i}", 0, 0, int(i)) for i in ids]


def hits(n: int) -> Hits:
    return Hits(np.arange(n), np.linspace(1, 0.5, n), store=Numbers())  # type: ignore[arg-type]


def shown(messages: Sequence[Message]) -> list[int]:
    """The numbers of the chunks in a prompt, in the order in which it shows them."""
    return [int(n) for n in re.findall(r"\[\d+\] number (\d+)", messages[-1].content)]


def even_are_relevant(messages: Sequence[Message]) -> str:
    return "\n".join(f"{n}: {'no' if i % 2 else 'Yes.'}" for n, i in enumerate(shown(messages), 1))


@given(st.integers(0, 30), st.integers(1, 30), st.integers(1, 9))
def test_critique_keeps_what_the_model_says_yes_to(n: int, k: int, together: int):
    llm = ScriptedModel(even_are_relevant)
    kept = Critique(k=k, together=together).run(QUERY, hits(n), llm)
    assert kept.ids.tolist() == list(range(0, min(n, k), 2))
    assert kept.scores.tolist() == hits(n).scores[kept.ids].tolist()
    assert len(llm.calls) == -(-min(n, k) // together)


@pytest.mark.parametrize("reply", NONSENSE)
def test_critique_keeps_what_it_hears_nothing_clear_about(reply: str):
    assert Critique().run(QUERY, hits(5), ScriptedModel(reply)) == hits(5)


def test_critique_reads_lines_as_models_write_them():
    reply = "Here you go:\n**1**: no\n- Passage 2 - NO, it does not\n[3]: yes\n4: no\n4: yes\n(5) no\n77: no"
    assert Critique().run(QUERY, hits(6), ScriptedModel(reply)).ids.tolist() == [2, 3, 5]
    assert len(Critique(together=1).run(QUERY, hits(2), ScriptedModel("No."))) == 0


def best_is_largest(messages: Sequence[Message]) -> str:
    there = shown(messages)
    return " > ".join(f"[{n + 1}]" for n in sorted(range(len(there)), key=lambda n: -there[n]))


@given(st.integers(0, 40), st.integers(2, 12), st.integers(1, 11))
def test_windows_bring_the_best_to_the_top(n: int, window: int, step: int):
    step = min(step, window - 1)
    llm = ScriptedModel(best_is_largest)
    ranked = RerankByModel(depth=40, window=window, step=step, k=100).run(QUERY, hits(n), llm)
    assert sorted(ranked.ids.tolist()) == list(range(n))
    held = min(window - step, n)  # as many are carried up from window to window
    assert ranked.ids.tolist()[:held] == list(range(n))[::-1][:held]
    assert ranked.scores.tolist() == pytest.approx([1 / r for r in range(1, n + 1)])
    assert all(len(shown(call.messages)) <= window for call in llm.calls)


def test_one_window_ranks_all_and_what_is_behind_stays():
    llm = ScriptedModel(best_is_largest)
    assert RerankByModel(depth=4, k=6).run(QUERY, hits(7), llm).ids.tolist() == [3, 2, 1, 0, 4, 5]
    assert len(llm.calls) == 1


@pytest.mark.parametrize(
    ("reply", "order"),
    [
        ("[3] > [1]", [2, 0, 1, 3]),
        ("[3] > [3] > [9] > [2]", [2, 1, 0, 3]),
        ("Of the 4 passages: [2] > [1] > [4] > [3]", [1, 0, 3, 2]),
        ("4, 2, 1, 3", [3, 1, 0, 2]),
        ("4 > 2", [3, 1, 0, 2]),
        ("The 4 passages are all good, 2 the most.", [0, 1, 2, 3]),
        *((reply, [0, 1, 2, 3]) for reply in NONSENSE),
    ],
)
def test_a_ranking_is_read_strictly(reply: str, order: list[int]):
    assert RerankByModel().run(QUERY, hits(4), ScriptedModel(reply)).ids.tolist() == order


def test_step_must_be_less_than_window():
    with pytest.raises(ConfigError, match="`step` is 5"):
        RerankByModel(window=5, step=5)


@pytest.mark.parametrize("operator", [Critique(concurrency=3), RerankByModel(concurrency=3)])
def test_batches_and_failing_models(operator: Any):
    llm = ScriptedModel(even_are_relevant if isinstance(operator, Critique) else best_is_largest)
    several = [hits(n) for n in (0, 1, 5, 30)]
    assert operator.run_batch([QUERY] * 4, several, llm=llm) == [operator.run(QUERY, h, llm) for h in several]
    assert operator.run_batch([], [], llm=llm) == []
    with pytest.raises(ModelError, match="gone"):
        operator.run(QUERY, hits(3), ScriptedModel([ModelError("gone")]))
    small = ScriptedModel("[1]", context_tokens=420)
    operator.run(QUERY, hits(16), small)
    assert len(small.calls) >= 1


def test_in_a_pipeline(kb: Collection):
    flow = Dense(k=4) >> Critique() >> RerankByModel(k=2)
    state = Pipeline(flow, collection=kb, llm=ScriptedModel("3: no\n[2] > [1]")).run("boats")
    assert state.hits.ids.tolist() == kb.search_dense(kb.encoder.encode_queries(["boats"]), 2)[0].ids[::-1].tolist()


class Overlap:
    """A cross-encoder that counts shared words."""

    calls: list[int]

    def __init__(self, name: str, max_length: int) -> None:
        if name == "broken":
            raise OSError("no such model")
        self.name, self.calls = name, []

    def predict(self, pairs: list[tuple[str, str]], batch_size: int, show_progress_bar: bool) -> np.ndarray:
        self.calls.append(len(pairs))
        scores = np.array([len(set(a.split()) & set(b.split())) for a, b in pairs], np.float32)
        return np.stack([scores, scores], axis=1) if self.name == "two labels" else scores


@pytest.fixture
def overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("sentence_transformers")
    module.CrossEncoder = Overlap  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    rerank._load.cache_clear()


@pytest.mark.usefixtures("overlap")
def test_a_cross_encoder_scores_all_queries_at_once():
    queries = [Query("number 3"), Query("2"), Query("x")]
    several = [hits(5), hits(4), Hits()]
    ranked = Rerank(model="m", k=2).run_batch(queries, several)
    assert [r.ids.tolist() for r in ranked] == [[3, 0], [2, 0], []]
    assert ranked[0].scores.tolist() == [2, 1]
    assert rerank._load("m", 512).model.calls == [9]
    assert ranked == [Rerank(model="m", k=2).run(q, h) for q, h in zip(queries, several, strict=True)]
    assert Rerank(model="m", depth=2).run(queries[0], hits(5)).ids.tolist() == [0, 1]


@pytest.mark.usefixtures("overlap")
def test_models_that_are_not_there_or_are_no_rerankers():
    with pytest.raises(ModelError, match="'broken' cannot be loaded: no such model"):
        Rerank(model="broken").run(QUERY, hits(2))
    with pytest.raises(ModelError, match="two labels gives"):
        Rerank(model="two labels").run(QUERY, hits(2))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    rerank._load.cache_clear()
    with pytest.raises(MissingExtraError, match=r"modular-rag\[local\]"):
        Rerank().run(QUERY, hits(2))
    assert len(Rerank().run(QUERY, Hits())) == 0


@pytest.mark.torch
def test_a_tiny_cross_encoder_on_disk(tmp_path: Path):
    pytest.importorskip("torch", reason="needs the extra `local`")
    pytest.importorskip("sentence_transformers", reason="needs the extra `local`")
    from transformers import BertConfig, BertForSequenceClassification

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "number", "which", "?", *map(str, range(10))]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}), encoding="utf-8")
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, num_labels=1,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    operator = Rerank(model=str(tmp_path), max_tokens=32, k=10)
    one = operator.run(QUERY, hits(6))
    assert sorted(one.ids.tolist()) == list(range(6))
    both = operator.run_batch([QUERY, Query("number 2")], [hits(6), hits(3)])
    assert both[0].scores == pytest.approx(one.scores, abs=1e-5)
    assert len(both[1]) == 3
