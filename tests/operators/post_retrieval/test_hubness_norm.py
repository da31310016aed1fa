"""The correction for hubs in a collection and in pipelines, against its formula."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.errors import CollectionError, ConfigError, DamagedFileError, EncoderMismatchError, InputError, NotFoundError
from rag.index.hubness import HUBNESS_KINDS
from rag.index.hubness_file import HubnessModel, load_hubness, save_hubness
from rag.index.tensors import write_tensors
from rag.operators.post_retrieval import HubnessNorm
from rag.operators.retrieval import Dense
from rag.pipelines import Pipeline
from rag.types import Chunk, Document, Hits, Query

DIM, CHUNKS = 32, 120


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def made(path: Path, metric: str = "cosine", encoder: str = f"hashing:{DIM}") -> Collection:
    collection = Collection.create(path, encoder=encoder, metric=metric, codec="float32")  # type: ignore[arg-type]
    vectors = unit(np.random.default_rng(0).normal(size=(CHUNKS, collection.dim)) + 0.5)
    documents = [Document(f"d{i}", f"text {i}") for i in range(CHUNKS)]
    with collection.writer() as writer:
        writer.add(documents, [[Chunk(d.id, d.text, 0, len(d.text))] for d in documents], vectors)
        writer.commit()
    return collection.refresh()


def bank(best: str = "csls", encoder: str = "", count: int = 50) -> HubnessModel:
    queries = unit(np.random.default_rng(1).normal(size=(count, DIM)) + 0.5).astype(np.float16)
    betas = {"inverted_softmax": 20.0, "dual_softmax": 5.0, "gallery_softmax": 10.0}
    return HubnessModel(encoder, queries, best, betas, 10, 40, 7, {"queries": count})  # type: ignore[arg-type]


def keep(collection: Collection, model: HubnessModel, name: str = "default") -> Path:
    path = collection.path / "hubness" / f"{name}.safetensors"
    save_hubness(model, path)
    return path


@pytest.fixture
def kb(tmp_path: Path) -> Iterator[Collection]:
    with made(tmp_path / "kb") as collection:
        keep(collection, bank(encoder=collection.encoder_fingerprint))
        yield collection


@pytest.fixture(scope="module")
def asked() -> list[Query]:
    vectors = unit(np.random.default_rng(2).normal(size=(30, DIM)) + 0.5)
    return [Query("?", vector=vector) for vector in vectors]


def log_mean(cosines: np.ndarray, beta: float) -> np.ndarray:
    return np.log(np.exp(beta * cosines).sum(1) / np.isfinite(cosines).sum(1))


@pytest.mark.parametrize("kind", HUBNESS_KINDS)
def test_scores_are_cosines_less_biases(kb: Collection, asked: list[Query], kind: str):
    model = bank()
    ids = kb.chunk_ids()
    vectors = kb.vectors(ids).astype(float)
    near = vectors @ unit(model.queries.astype(float)).T
    sample = np.sort(np.random.default_rng(7).permutation(ids)[:40])
    own = vectors @ kb.vectors(sample).astype(float).T
    own[np.searchsorted(ids, sample), np.arange(40)] = -np.inf  # not held against themselves
    bias = {
        "csls": np.sort(near, axis=1)[:, -10:].mean(1) / 2,
        "inverted_softmax": log_mean(near, 20) / 20,
        "gallery_softmax": log_mean(own, 10) / 10,
        "dual_softmax": (log_mean(near, 5) + log_mean(own, 5)) / 10,
    }[kind]
    hits = Dense(k=40).run_batch(asked, kb)
    found = HubnessNorm(kind=kind).run_batch(hits, kb)
    moved = 0
    for before, after in zip(hits, found, strict=True):
        raw = dict(zip(before.ids.tolist(), before.scores.tolist(), strict=True))
        assert sorted(after.ids.tolist()) == sorted(raw)
        assert after.columns["score_raw"].tolist() == [raw[i] for i in after.ids.tolist()]
        np.testing.assert_allclose(
            after.scores, after.columns["score_raw"] - bias[np.searchsorted(ids, after.ids)], atol=2e-5
        )
        assert (np.diff(after.scores) <= 0).all()
        moved += after.ids.tolist() != before.ids.tolist()
    assert moved > 20


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_batch_gives_the_same_as_one_by_one(kb: Collection, asked: list[Query], dynamic: bool):
    hits = [Hits(), *Dense(k=20).run_batch(asked, kb)]
    operator = HubnessNorm(dynamic=dynamic)
    together = operator.run_batch(hits, kb)
    assert together == [operator.run(own, kb) for own in hits]
    assert len(together[0]) == 0
    assert operator.run_batch([], kb) == []


def test_dynamic_leaves_questions_alone_whose_first_hit_is_no_hub(kb: Collection, asked: list[Query]):
    keep(kb, bank(encoder=kb.encoder_fingerprint, count=12))
    known = bank(count=12).queries.astype(np.float32)
    hubs = {int(hits.ids[0]) for hits in kb.search_dense(known, 1)}
    hits = Dense(k=20).run_batch(asked, kb)
    always, sometimes = (HubnessNorm(dynamic=d).run_batch(hits, kb) for d in (False, True))
    first = [int(own.ids[0]) in hubs for own in hits]
    assert 0 < sum(first) < len(first)
    for hub, before, all_of_them, some in zip(first, hits, always, sometimes, strict=True):
        assert some == (all_of_them if hub else before.with_columns(score_raw=before.scores))


def test_where_nothing_helped_nothing_changes(kb: Collection, asked: list[Query]):
    keep(kb, bank("none", kb.encoder_fingerprint), "tested")
    (hits,) = Dense(k=20).run_batch(asked[:1], kb)
    assert HubnessNorm(model="tested").run(hits, kb) == hits.with_columns(score_raw=hits.scores)
    assert HubnessNorm(model="tested", kind="csls").run(hits, kb) == HubnessNorm().run(hits, kb)


def test_it_knows_chunks_and_banks_that_come_later(kb: Collection, asked: list[Query]):
    pipeline = Pipeline(Dense(k=5) >> HubnessNorm(kind="dual_softmax"), collection=kb)
    pipeline.run(asked[0])
    with kb.writer() as writer:
        vector = np.asarray(asked[0].vector)[None]
        writer.add([Document("new", "new")], [[Chunk("new", "new", 0, 3)]], vector)
        writer.commit()
    kb.refresh()
    found = pipeline.run(asked[0]).hits
    assert "new" in [chunk.document for chunk in found.chunks()]
    keep(kb, bank(encoder=kb.encoder_fingerprint, count=20))
    again = HubnessNorm(kind="dual_softmax").run(found.with_scores(found.columns["score_raw"]), kb)
    assert not np.allclose(np.sort(again.scores), np.sort(found.scores), atol=1e-6)


def test_threads_share_what_is_remembered(kb: Collection, asked: list[Query], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rag.operators.post_retrieval.hubness_norm._REMEMBERED", 30)
    hits = Dense(k=20).run_batch(asked, kb)
    expected = HubnessNorm().run_batch(hits, kb)
    results: dict[int, Hits] = {}

    def work(start: int) -> None:
        for row in range(start, len(hits)):
            results[row] = HubnessNorm().run(hits[row], kb)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row, wanted in enumerate(expected):
        np.testing.assert_allclose(results[row].scores, wanted.scores, atol=1e-6)


def test_a_file_is_read_back_and_checked(kb: Collection, tmp_path: Path):
    model = bank("dual_softmax", "some")
    path = tmp_path / "own" / "one.safetensors"
    save_hubness(model, path)
    loaded = load_hubness(path)
    np.testing.assert_array_equal(loaded.queries, model.queries)
    for part in ("encoder", "best", "betas", "neighbours", "items", "seed", "about"):
        assert getattr(loaded, part) == getattr(model, part)
    good = {"format": 1, "encoder": "", "metric": "cosine", "best": "csls", "betas": {}, "neighbours": 1}
    good |= {"items": 1, "seed": 0, "about": {}}
    some = np.ones((2, 4), np.float16)
    for queries, head in (
        (some, good | {"best": "cls"}),
        (some, good | {"betas": {"dual_softmax": 0.0}}),
        (some, good | {"metric": "ip"}),
        (some, {"format": 1}),
        (some[:0], good),
        (some * np.float16(np.nan), good),
        (some.astype(np.float32), good),
    ):
        write_tensors(path, {"queries": queries}, "hubness", head)
        with pytest.raises(DamagedFileError, match="rag hubs train"):
            load_hubness(path)
    write_tensors(path, {"queries": some}, "hubness", good | {"format": 2})
    with pytest.raises(CollectionError, match="format 2"):
        load_hubness(path)
    path.write_bytes(b"damaged")
    with pytest.raises(DamagedFileError):
        load_hubness(path)


def test_what_cannot_be_corrected_is_told(kb: Collection, tmp_path: Path):
    hits = Hits(kb.chunk_ids()[:2], [0.5, 0.4])
    with pytest.raises(NotFoundError, match=r"no bank against hubs.*other.*rag hubs train"):
        HubnessNorm(model="other").run(hits, kb)
    with pytest.raises(ConfigError, match="no name of a bank against hubs"):
        HubnessNorm(model="../secret").run(hits, kb)
    for score in (17.2, np.nan):
        with pytest.raises(InputError, match=rf"hit 1 of query 0 has the score {score}, which is no cosine"):
            HubnessNorm().run(Hits(hits.ids, [0.5, score]), kb)
    keep(kb, bank(encoder="another"), "strange")
    with pytest.raises(EncoderMismatchError, match="rag hubs train"):
        HubnessNorm(model="strange").run(hits, kb)
    with pytest.raises(ConfigError, match="'cls'"):
        HubnessNorm(kind="cls")
    with made(tmp_path / "ip", "ip") as other, pytest.raises(ConfigError, match="scores by 'ip'"):
        HubnessNorm().run(hits, other)
