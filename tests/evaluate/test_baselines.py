"""Dense and hybrid retrieval on real data give the baselines that are known for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag.encoders.loading import find_checkpoint
from rag.errors import NotFoundError
from rag.evaluate import collection_of, evaluate, find
from rag.operators.retrieval import BM25, Dense, Fuse
from rag.pipelines import ContentCache, Pipeline

DENSE, LEXICAL = 0.374, 0.343  # nDCG@10 on cranfield by sentence-transformers and by bm25s


@pytest.mark.slow
def test_cranfield_by_meaning_by_words_and_by_both(real: Path, tmp_path: Path):
    try:
        find_checkpoint("all-MiniLM-L6-v2")
    except NotFoundError as error:
        pytest.skip(f"the default encoder is not installed: {error}")
    dataset = find(real / "cranfield")
    with collection_of(dataset, cache=tmp_path) as collection:
        cache = ContentCache()
        flows = {"dense": Dense(), "bm25": BM25(), "hybrid": (Dense() | BM25()) >> Fuse(k=100)}
        pipelines = {name: Pipeline(flow, collection=collection, cache=cache) for name, flow in flows.items()}
        runs = {
            name: lambda queries, p=pipeline: [state.hits for state in p.run_batch(queries)]
            for name, pipeline in pipelines.items()
        }
        report = evaluate(runs, dataset, ["nDCG@10"])
    means = {name: run.mean("nDCG@10") for name, run in report.runs.items()}
    assert means["dense"] == pytest.approx(DENSE, abs=0.01)
    assert means["bm25"] == pytest.approx(LEXICAL, abs=0.01)
    assert means["hybrid"] > max(means["dense"], means["bm25"])
