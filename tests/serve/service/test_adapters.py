"""Pipelines as retrievers of other frameworks, called as those call them; skipped where a framework is missing."""

from __future__ import annotations

import asyncio
import sys
import warnings
from types import ModuleType
from typing import Any

import pytest

from rag.collection import Collection
from rag.errors import ConfigError, MissingExtraError
from rag.operators.retrieval import BM25
from rag.pipelines import Pipeline
from tests.serve.service import samples


def adapter(name: str, framework: str) -> ModuleType:
    """The adapter's module; what frameworks themselves warn of while they are imported is not our concern."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(framework, reason=f"{framework} is not installed")
        return __import__(f"rag.serve.adapters.{name}", fromlist=["x"])


@pytest.mark.filterwarnings("default")
def test_langchain(collection: Collection):
    module = adapter("langchain", "langchain_core")
    retriever = module.PipelineRetriever(pipeline=samples.hybrid(collection), k=2)
    first, second = retriever.invoke("what is a roux made of")
    assert "roux" in first.page_content
    assert first.metadata["document"] == "sub/cooking.txt"
    assert first.metadata["score"] >= second.metadata["score"]
    assert asyncio.run(retriever.ainvoke("what is a roux made of")) == [first, second]
    chain = retriever | (lambda documents: [d.id for d in documents])
    assert chain.invoke("what is a roux made of") == [first.id, second.id]
    within = module.PipelineRetriever(pipeline=samples.hybrid(collection), filter="year == 2021")
    assert {d.metadata["document"] for d in within.invoke("roux")} == {"sailing.md"}
    with pytest.raises(ConfigError, match="does not turn a query into hits"):
        module.PipelineRetriever(pipeline=Pipeline(samples.Echo()))


@pytest.mark.filterwarnings("default")
def test_llama_index(collection: Collection, documents: Any):
    module = adapter("llama_index", "llama_index.core")
    retriever = module.PipelineRetriever(samples.hybrid(collection), k=2)
    first, second = retriever.retrieve("what is a roux made of")
    assert "roux" in first.node.get_content()
    assert first.score >= second.score
    text = (documents / first.metadata["document"]).read_text(encoding="utf-8")
    assert text[first.node.start_char_idx : first.node.end_char_idx] == first.node.text
    again = asyncio.run(retriever.aretrieve("what is a roux made of"))
    assert [n.node_id for n in again] == [first.node_id, second.node_id]
    with pytest.raises(ConfigError):
        module.PipelineRetriever(Pipeline(samples.Echo()))


@pytest.mark.filterwarnings("default")
def test_pyterrier(collection: Collection):
    module = adapter("pyterrier", "pyterrier")
    import pandas

    topics = pandas.DataFrame(
        {"qid": ["1", "2"], "query": ["what is a roux", "rope that controls a sail"], "note": ["a", "b"]}
    )
    found = module.PipelineTransformer(samples.hybrid(collection))(topics)
    best = found[found["rank"] == 0].set_index("qid")
    assert best["docno"].to_dict() == {"1": "sub/cooking.txt", "2": "sailing.md"}
    assert best["note"].to_dict() == {"1": "a", "2": "b"}
    for _, ranking in found.groupby("qid"):
        assert ranking["rank"].tolist() == list(range(len(ranking)))
        assert ranking["docno"].is_unique
        assert ranking["score"].is_monotonic_decreasing
    cut = module.PipelineTransformer(Pipeline(BM25(k=50), collection=collection), chunks=True) % 1
    assert len(cut(topics)) == 2
    nothing = module.PipelineTransformer(samples.hybrid(collection))(topics.head(0))
    assert list(nothing.columns) == list(found.columns)


@pytest.mark.parametrize(
    ("name", "framework", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("pyterrier", "pyterrier", "pyterrier"),
    ],
)
def test_a_missing_framework_is_told(name: str, framework: str, extra: str, monkeypatch: pytest.MonkeyPatch):
    for module in [m for m in sys.modules if m.split(".")[0] == framework]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, framework, None)
    monkeypatch.delitem(sys.modules, f"rag.serve.adapters.{name}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"modular-rag\[{extra}\]"):
        __import__(f"rag.serve.adapters.{name}")
