"""The relevance filter in a collection and in pipelines."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.errors import ConfigError, DamagedFileError, EncoderMismatchError, InputError, NotFoundError
from rag.operators.post_retrieval import RelevanceFilter
from rag.operators.retrieval import Dense
from rag.pipelines import Pipeline
from rag.relevance import METHODS, Recipe, RelevanceModel, fit, load_models, save_models
from rag.types import Chunk, Document, Hits, Query
from tests.relevance.synthetic import DIM, noisy_lists

TRAINED = [m for m in METHODS if m not in ("raw", "max", "zscore", "topk", "gap")]


def small(path: Path, metric: str = "cosine", encoder: str = f"hashing:{DIM}") -> Collection:
    made = Collection.create(path, encoder=encoder, metric=metric)  # type: ignore[arg-type]
    documents = [Document(f"d{i}", text) for i, text in enumerate(("boats sail", "a roux is flour", "rent a boat"))]
    with made.writer() as writer:
        chunks = [[Chunk(d.id, d.text, 0, len(d.text))] for d in documents]
        writer.add(documents, chunks, made.encoder.encode_documents([d.text for d in documents]))
        writer.commit()
    return made.refresh()


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """A collection with a model, of which the embeddings are those of the synthetic queries."""
    pytest.importorskip("torch")
    with small(tmp_path_factory.mktemp("relevance") / "kb") as made:
        recipe = Recipe(hidden=64, epochs=12)
        model = fit(noisy_lists(2500, 1)[0], encoder=made.encoder_fingerprint, recipe=recipe)
        save_models([model], made.path / "relevance" / "default.safetensors")
        yield made


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Collection]:
    with small(tmp_path / "bare") as made:
        yield made


@pytest.fixture(scope="module")
def model(kb: Collection) -> RelevanceModel:
    return load_models(kb.path / "relevance" / "default.safetensors")["dense"]


def asked(count: int, seed: int = 2) -> tuple[list[Query], list[Hits]]:
    lists = noisy_lists(count, seed)[0]
    queries = [Query("?", vector=vector) for vector in lists.queries]
    return queries, [Hits(np.arange(100) + 7, s, {"place": np.arange(100)}) for s in lists.scores]


@pytest.mark.torch
@pytest.mark.parametrize("method", [*METHODS, "best"])
def test_it_keeps_the_beginning_that_the_model_says_is_relevant(kb: Collection, model: RelevanceModel, method: str):
    queries, hits = asked(60)
    lists = noisy_lists(60, 2)[0]
    fitted = model.method(method)  # type: ignore[arg-type]
    scored = fitted.scorer(lists)
    least = fitted.curve.at_recall(0.9)
    for row, found in enumerate(
        RelevanceFilter(method=method, model="default", target_recall=0.9).run_batch(queries, hits, kb)
    ):
        kept = scored.values[row] >= least
        assert found.hits.ids.tolist() == (np.flatnonzero(kept) + 7).tolist()
        np.testing.assert_array_equal(found.hits.columns["score_raw"], lists.scores[row][kept])
        np.testing.assert_array_equal(found.hits.scores, lists.scores[row][kept])
        chances = fitted.relevance(scored.values[row][kept])
        np.testing.assert_allclose(found.hits.columns["relevance"], chances, rtol=1e-5)
        assert found.hits.columns["place"].tolist() == np.flatnonzero(kept).tolist()
        assert found.route == ("relevant" if kept.any() else "no_relevant")
        assert (found.filtering.n_in, found.filtering.n_kept) == (100, kept.sum())
        assert found.filtering.best == pytest.approx(scored.values[row].max(), rel=1e-5)
        assert set(found.filtering.parameters) == set(scored.parameters)


@pytest.mark.torch
@pytest.mark.parametrize("method", [*METHODS, "best"])
def test_a_batch_gives_the_same_as_one_by_one(kb: Collection, method: str):
    queries, hits = asked(6)
    hits[1:3] = [Hits(), hits[2].top(1)]
    hits[4] = hits[4].take(np.random.default_rng(0).permutation(100))
    each = RelevanceFilter(method=method, model="default")
    for row, many in enumerate(each.run_batch(queries, hits, kb)):
        one = each.run(queries[row], hits[row], kb)
        assert one.route == many.route
        assert one.hits.ids.tolist() == many.hits.ids.tolist()
        np.testing.assert_allclose(one.hits.columns["relevance"], many.hits.columns["relevance"], rtol=1e-4)
        assert (one.filtering.n_in, one.filtering.n_kept) == (many.filtering.n_in, many.filtering.n_kept)


@pytest.mark.torch
def test_hits_in_another_order_keep_it(kb: Collection):
    (query,), (hits,) = asked(1)
    order = np.random.default_rng(0).permutation(100)
    each = RelevanceFilter(method="list_adapter", target_recall=0.99)
    straight, mixed = each.run(query, hits, kb).hits, each.run(query, hits.take(order), kb).hits
    assert 1 < len(straight) < 100
    assert mixed.ids.tolist() == [i for i in hits.ids[order].tolist() if i in set(straight.ids.tolist())]
    relevance = dict(zip(straight.ids.tolist(), straight.columns["relevance"].tolist(), strict=True))
    assert mixed.columns["relevance"].tolist() == [relevance[i] for i in mixed.ids.tolist()]


@pytest.mark.torch
def test_thresholds_given_and_by_precision(kb: Collection, model: RelevanceModel):
    queries, hits = asked(50)
    for found in RelevanceFilter(method="list_adapter", threshold=0.3).run_batch(queries, hits, kb):
        assert (found.hits.columns["relevance"] >= 0.3 - 1e-5).all()
        assert len(found.hits) < 20
    lists = noisy_lists(1000, 5)[0]
    queries, hits = asked(1000, 5)
    found = RelevanceFilter(method="truncation", target_precision=0.7).run_batch(queries, hits, kb)
    relevant = sum(int(lists.labels[row, : len(f.hits)].sum()) for row, f in enumerate(found))
    assert relevant / sum(len(f.hits) for f in found) == pytest.approx(0.7, abs=0.05)


def test_without_a_model_a_threshold_is_one_of_the_methods_values(bare: Collection):
    (query,), (hits,) = asked(1)
    best = float(hits.scores[0])
    assert len(RelevanceFilter(method="topk", threshold=0.1).run(query, hits, bare).hits) == 10
    found = RelevanceFilter(method="max", threshold=0.8).run(query, hits, bare)
    assert found.hits.ids.tolist() == hits.ids[hits.scores >= np.float32(0.8) * best].tolist()
    assert found.filtering.parameters == {"best": best}
    assert set(found.hits.columns) == {"place", "score_raw"}  # no probability without a model
    cut = RelevanceFilter(method="gap").run(query, hits, bare)
    assert len(cut.hits) == 1 + np.argmax(-np.diff(hits.scores))


def test_nothing_relevant_is_a_route_and_min_keep_does_not_hide_it(bare: Collection):
    (query,), (hits,) = asked(1)
    for kept in (0, 3):
        found = RelevanceFilter(method="raw", threshold=0.99, min_keep=kept).run(query, hits, bare)
        assert (found.route, len(found.hits), found.filtering.n_kept) == ("no_relevant", kept, kept)
    none = RelevanceFilter(method="zscore", threshold=1, min_keep=2).run(query, Hits(), bare)
    assert (none.route, len(none.hits), none.filtering.best) == ("no_relevant", 0, None)
    assert RelevanceFilter(method="zscore", threshold=1).run_batch([], [], bare) == []


@pytest.mark.torch
def test_in_a_pipeline_it_routes(kb: Collection):
    found = Pipeline(Dense(k=3) >> RelevanceFilter(method="raw", threshold=0.2), collection=kb).run("boats sail")
    assert found.hits.chunks()[0].document == "d0"
    assert found.route == "relevant"
    assert found.filtering.n_in == 3
    text = """
flow:
  - dense: {k: 3}
  - route:
      by:
        relevance_filter: {method: raw, threshold: 0.95}
      flows:
        relevant: pass_on
        no_relevant: bm25
"""
    pipeline = Pipeline.from_yaml(text, collection=kb)
    assert pipeline.run("boats sail").hits.columns.keys() == {"score_raw"}
    assert pipeline.run("rent me something to eat").hits.columns.keys() == set()
    joint = Pipeline(Dense(k=3) >> RelevanceFilter(method="joint_adapter"), collection=kb)
    assert joint.run("a boat").filtering.n_in == 3


@pytest.mark.torch
def test_models_are_found_by_name_and_by_file_and_are_read_again_when_they_change(
    kb: Collection, model: RelevanceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAG_FILES", str(tmp_path))
    (query,), (hits,) = asked(1)
    file = tmp_path / "mine.safetensors"
    shutil.copy(kb.path / "relevance" / "default.safetensors", file)
    by_file = RelevanceFilter(method="raw", model="mine.safetensors")
    assert by_file.run(query, hits, kb).hits == RelevanceFilter(method="raw").run(query, hits, kb).hits
    file.write_bytes(b"damaged")
    with pytest.raises(DamagedFileError):
        by_file.run(query, hits, kb)
    with pytest.raises(NotFoundError, match=r"other.safetensors.*rag filter train"):
        RelevanceFilter(model="other").run(query, hits, kb)
    with pytest.raises(NotFoundError, match="there is no relevance model"):
        RelevanceFilter(model="no.safetensors").run(query, hits, kb)
    for name in ("../secret", "a/b", "", ".hidden"):
        with pytest.raises(ConfigError, match="no name of a relevance model"):
            RelevanceFilter(model=name).run(query, hits, kb)
    with pytest.raises(ConfigError, match="is not below"):
        RelevanceFilter(model="../../x.safetensors").run(query, hits, kb)


@pytest.mark.torch
def test_the_model_of_another_encoder_is_refused(kb: Collection, tmp_path: Path):
    (query,), (hits,) = asked(1)
    with small(tmp_path / "other", encoder="hashing:65") as other:
        (other.path / "relevance").mkdir()
        shutil.copy(kb.path / "relevance" / "default.safetensors", other.path / "relevance")
        with pytest.raises(EncoderMismatchError, match=r"fitted to an encoder with fingerprint.*rag filter train"):
            RelevanceFilter().run(query, hits, other)


@pytest.mark.torch
def test_scores_that_it_cannot_read_are_told(kb: Collection, tmp_path: Path):
    (query,), _ = asked(1)
    with pytest.raises(InputError, match=r"scores up to 17.2 are no cosines"):
        RelevanceFilter().run(query, Hits([1, 2], [17.2, 3.0]), kb)
    with pytest.raises(InputError, match="hit 1 of query 0 has the score nan"):
        RelevanceFilter().run(query, Hits([1, 2], [0.5, np.nan]), kb)
    with small(tmp_path / "ip", metric="ip") as other, pytest.raises(ConfigError, match="scores by 'ip'"):
        RelevanceFilter(method="raw", threshold=0.5).run(query, Hits([1], [0.5]), other)


def test_settings_that_do_not_fit_together():
    with pytest.raises(ConfigError, match="`threshold` or `target_precision`"):
        RelevanceFilter(threshold=0.5, target_precision=0.5)
    with pytest.raises(ConfigError, match="it is a relevance, between 0 and 1"):
        RelevanceFilter(method="adapter", threshold=3)
    with pytest.raises(ConfigError, match="it is a relevance, between 0 and 1"):
        RelevanceFilter(method="raw", model="default", threshold=-1)
    assert RelevanceFilter(method="zscore", threshold=3).threshold == 3


@pytest.mark.torch
def test_running_it_imports_no_torch(kb: Collection):
    script = f"""
import sys
from rag.collection import Collection
from rag.operators.post_retrieval import RelevanceFilter
from rag.operators.retrieval import Dense
from rag.pipelines import Pipeline
with Collection.open({str(kb.path)!r}) as kb:
    for method in ("adapter", "joint_adapter", "truncation"):
        Pipeline(Dense(k=3) >> RelevanceFilter(method=method), collection=kb).run("boats")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
