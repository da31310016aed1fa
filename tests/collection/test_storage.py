"""Every way in which a segment may keep its vectors, through adding, deleting, merging, reopening and upgrading.

With borders lowered, so that a few thousand vectors are enough for a graph; results are compared with brute force.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.collection import Collection, Writer, merging, storage
from rag.collection.manifest import FORMAT, Manifest
from rag.encoders import load
from rag.errors import InputError
from rag.index import GraphIndex, IdFilter, Metric, ScanIndex, recommend
from rag.index.profile import profile
from rag.types import Chunk, Document
from tests.collection.samples import downgrade, readers_beside

Floats = NDArray[np.float32]

ENCODER = load("hashing:48")
DIM = ENCODER.dim
LARGE = 5000
COARSE = ("scan", "leanvec")  # a scan reads 64 bytes a vector, as with most codecs at this dimension


@pytest.fixture
def _low_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact to 1,365 vectors of 48 numbers, a graph from 4,097 of which a scan reads one line each."""
    monkeypatch.setattr(recommend, "GRAPH_FROM", 4096 * 64)
    monkeypatch.setattr(storage, "BATCH_BYTES", 1 << 16)


low_borders = pytest.mark.usefixtures("_low_borders")


def made(n: int, seed: int) -> Floats:
    """Vectors as encoders make them: in clusters, and of fewer dimensions than they have numbers."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(0).normal(size=(12, DIM))
    centres = np.random.default_rng(1).normal(size=(40, 12))
    inner = centres[rng.integers(0, 40, n)] + 0.7 * rng.normal(size=(n, 12))
    return np.asarray(inner @ basis + 0.05 * rng.normal(size=(n, DIM)), dtype=np.float32)


class Filled:
    """A collection with a document for each vector, and what it should hold."""

    def __init__(self, path: Path, **settings: object) -> None:
        self.path = path
        self.held: dict[int, Floats] = {}
        self.number = 0
        Collection.create(path, encoder=ENCODER, **settings).close()  # type: ignore[arg-type]
        self.collection = Collection.open(path, encoder=ENCODER)

    def add(self, writer: Writer, vectors: Floats) -> None:
        documents = [
            Document(f"d{self.number + i}", "word", {"part": (self.number + i) % 10}) for i in range(len(vectors))
        ]
        chunks = [[Chunk(document.id, "word", 0, 4)] for document in documents]
        ids = writer.add(documents, chunks, vectors)
        self.number += len(vectors)
        self.held.update(zip(ids.tolist(), vectors, strict=True))

    def commit(self, *batches: Floats) -> None:
        for vectors in batches:
            with self.collection.writer() as writer:
                self.add(writer, vectors)
                writer.commit()

    def delete(self, ids: NDArray[np.int64]) -> None:
        names = [f"d{chunk}" for chunk in ids.tolist()]  # a chunk each, numbered alike
        with self.collection.writer() as writer:
            assert writer.delete(names) == len(names)
            writer.commit()
        for chunk in ids.tolist():
            del self.held[chunk]

    def forms(self) -> list[tuple[str, str]]:
        with Collection.open(self.path, encoder=ENCODER) as fresh:
            told = [(one.kind, one.codec) for one in fresh.info().indexes]
        assert told == [(one.kind, one.codec) for one in self.collection.info().indexes]
        return told

    def recall(self, k: int = 10, filter: str | None = None, asked: Floats | None = None, **more: float) -> float:
        """Of the true k nearest, as the reopened collection finds them; and everything it finds must be true."""
        ids = np.array(sorted(self.held))
        if filter is not None:
            ids = ids[ids % 10 == int(filter[-1])]
        matrix = np.stack([self.held[chunk] for chunk in ids.tolist()]).astype(np.float64)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        asked = made(100, 999) if asked is None else asked
        unit = asked / np.linalg.norm(asked, axis=1, keepdims=True)
        scores = unit @ matrix.T
        least = np.sort(scores, axis=1)[:, -k]
        score_of = [dict(zip(ids.tolist(), row, strict=True)) for row in scores]
        hits = 0
        with Collection.open(self.path, encoder=ENCODER) as fresh:
            assert np.array_equal(fresh.chunk_ids(), np.array(sorted(self.held)))
            for row, found in enumerate(fresh.search_dense(asked, k, filter=filter, **more)):
                assert len(set(found.ids.tolist())) == k
                true = np.array([score_of[row][chunk] for chunk in found.ids.tolist()])  # none that is deleted
                assert np.allclose(true, found.scores, atol=5e-3)
                hits += int((true >= least[row] - 1e-6).sum())
            some = ids[:: max(len(ids) // 50, 1)]
            stored = fresh.vectors(some)
            unit = matrix[np.searchsorted(ids, some)]
            assert np.allclose(stored, unit, atol=2e-3)
            assert fresh.verify().ok
        return hits / (len(asked) * k)


def check(filled: Filled) -> None:
    """A codec may lose 1 % and a walk what is asked for."""
    assert filled.recall() >= 0.98
    assert filled.recall(recall=0.95) >= 0.95
    assert filled.recall(filter="part == 3") >= 0.98
    assert filled.recall(recall=1.0) >= 0.99


@low_borders
def test_the_kind_of_a_segment_goes_by_its_size(tmp_path: Path) -> None:
    filled = Filled(tmp_path / "kb")
    filled.commit(made(500, 1))
    assert filled.forms() == [("scan", "float32")]
    filled.commit(made(3000, 2))
    assert filled.forms() == [("scan", "float32"), COARSE]
    filled.commit(made(LARGE, 3))
    kinds = [kind for kind, _ in filled.forms()]
    assert kinds == ["scan", "scan", "graph"]
    check(filled)


def test_few_vectors_are_kept_and_found_as_they_always_were(tmp_path: Path) -> None:
    """The same bytes as with codec float32, which is an exact scan."""
    auto, named = Filled(tmp_path / "auto"), Filled(tmp_path / "named", codec="float32")
    for filled in (auto, named):
        filled.commit(made(700, 1), made(300, 2))
        with filled.collection.writer() as writer:
            writer.compact()
    for left, right in zip(
        sorted((tmp_path / "auto" / "segments").iterdir()),
        sorted((tmp_path / "named" / "segments").iterdir()),
        strict=True,
    ):
        assert left.name == right.name
        assert left.read_bytes() == right.read_bytes()
    assert auto.recall() == 1.0


@low_borders
def test_merging_extends_a_graph_and_does_not_build_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled = Filled(tmp_path / "kb")
    filled.commit(made(LARGE, 1))
    added: list[int] = []
    add = GraphIndex.add

    def counted(self: GraphIndex, ids: NDArray[np.int64], vectors: Floats) -> None:
        added.append(len(ids))
        add(self, ids, vectors)

    monkeypatch.setattr(GraphIndex, "add", counted)
    filled.delete(np.arange(0, 900, 3))
    filled.commit(made(800, 2), made(1500, 3))
    assert added == []
    with filled.collection.writer() as writer:
        writer.compact()
    assert sum(added) == 2300
    assert max(added) * DIM * 4 <= storage.BATCH_BYTES or max(added) == 1024, "in batches"
    (form,) = filled.forms()
    assert form[0] == "graph"
    (told,) = filled.collection.info().indexes
    assert told.tombstones == 300
    assert told.chunks == len(filled.held)
    check(filled)

    filled.delete(np.arange(901, 3600))  # with more than a quarter deleted it is built anew, without tombstones
    (told,) = filled.collection.info().indexes
    assert told.tombstones == 0
    assert sum(added) == 2300 + len(filled.held)
    check(filled)


@low_borders
def test_a_reader_neither_sees_nor_feels_that_a_graph_is_extended(tmp_path: Path) -> None:
    filled = Filled(tmp_path / "kb")
    filled.commit(made(LARGE, 1))
    asked = made(20, 5)
    with Collection.open(filled.path, encoder=ENCODER) as reader:
        before = reader.search_dense(asked, 10)
        filled.delete(np.arange(100))
        filled.commit(made(2000, 2))
        with filled.collection.writer() as writer:
            writer.compact()
        assert [hits.ids.tolist() for hits in reader.search_dense(asked, 10)] == [hits.ids.tolist() for hits in before]
        assert reader.info().indexes[0].tombstones == 0
        reader.refresh()
        assert reader.info().chunks == len(filled.held)


@low_borders
def test_deleting_from_a_graph_needs_no_merge(tmp_path: Path) -> None:
    filled = Filled(tmp_path / "kb")
    filled.commit(made(LARGE, 1))
    filled.delete(np.arange(0, LARGE, 5))
    (told,) = filled.collection.info().indexes
    assert (told.kind, told.chunks, told.tombstones) == ("graph", LARGE * 4 // 5, LARGE // 5)
    check(filled)


@low_borders
def test_a_graph_that_shrinks_becomes_a_scan(tmp_path: Path) -> None:
    filled = Filled(tmp_path / "kb")
    filled.commit(made(LARGE, 1))
    filled.delete(np.arange(1000, LARGE))
    assert filled.forms() == [("scan", "float32")]
    assert filled.recall() >= 0.99


@low_borders
def test_vectors_that_a_coarse_codec_loses_get_a_finer_one(tmp_path: Path) -> None:
    """Two clusters, far from each other and so dense that a few bits cannot tell their points apart."""
    filled = Filled(tmp_path / "kb")
    rng = np.random.default_rng(0)
    sides = rng.choice([-1, 1], (2500, 1))
    near = (sides * rng.normal(size=DIM) + 0.01 * rng.normal(size=(2500, DIM))).astype(np.float32)
    filled.commit(near)
    (form,) = filled.forms()
    assert form != COARSE
    assert filled.recall(asked=near[::25] + 0.003 * rng.normal(size=(100, DIM)).astype(np.float32)) >= 0.98


@low_borders
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_numbers_beyond_half_precision_that_the_sample_did_not_have(
    tmp_path: Path, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "choose", lambda *_, **__: recommend.Choice("scan", "float16", 0.0))
    filled = Filled(tmp_path / "kb", metric=metric)
    vectors = made(2000, 1)
    filled.commit(vectors)
    assert filled.forms() == [("scan", "float16")]
    vectors[7, 3] = 1e6
    filled.commit(vectors)
    assert filled.forms() == [("scan", "float16"), ("scan", "float32")]


@low_borders
@pytest.mark.parametrize("codec", ["float16", "lvq4x8", "leanvec"])
def test_a_named_codec_is_what_every_segment_gets(tmp_path: Path, codec: str) -> None:
    filled = Filled(tmp_path / "kb", codec=codec)
    filled.commit(made(300, 1), made(LARGE, 2))
    assert filled.forms() == [("scan", codec)] * 2
    assert filled.collection.info().codec == codec
    assert filled.recall() >= 0.98


@low_borders
def test_codecs_learn_from_all_parts_and_not_from_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled = Filled(tmp_path / "kb", codec="lvq8")
    filled.commit(made(200, 1), made(400, 2) + 5)
    seen: list[Floats] = []
    learn = ScanIndex.learn
    monkeypatch.setattr(ScanIndex, "learn", lambda self, vectors: (seen.append(vectors), learn(self, vectors))[1])
    with filled.collection.writer() as writer:
        writer.compact()
    (sample,) = seen
    assert len(sample) == 600


@pytest.mark.parametrize("seed", range(2))
def test_any_history_of_changes_is_held_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Adding, deleting, merging and upgrading in any order, with graphs that walk from 600 vectors on."""
    monkeypatch.setattr(recommend, "GRAPH_FROM", 64 * 600)
    monkeypatch.setattr("rag.index.graph._FEW", 300)
    rng = np.random.default_rng(seed)
    filled = Filled(tmp_path / "kb")
    filled.commit(made(1500, seed))
    kinds = set()
    for step in range(8):
        action = rng.choice(["add", "add", "delete", "merge", "upgrade"])
        if action == "add":
            filled.commit(made(int(rng.integers(1, 700)), 100 * seed + step))
        elif action == "delete":
            held = np.array(sorted(filled.held))
            filled.delete(rng.choice(held, int(rng.uniform(0, 0.3) * len(held)), replace=False))
        elif action == "merge":
            filled.collection.compact()
        else:
            filled.collection.upgrade(rng.choice(["auto", "auto", "leanvec4", "float32"]))
        kinds |= {kind for kind, _ in filled.forms()}
        assert filled.recall(recall=0.95) >= 0.94
    assert kinds >= {"graph"}


def test_a_commit_tells_how_far_an_index_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BATCH_BYTES", 1)  # 1024 vectors
    filled = Filled(tmp_path / "kb", codec="lvq8")
    told: list[tuple[str, int, int]] = []
    with filled.collection.writer(progress=lambda *state: told.append(state)) as writer:
        filled.add(writer, made(2500, 1))
        writer.commit()
    assert told == [("building the index", done, 2500) for done in (0, 1024, 2048, 2500)]


# --- collections of before, and upgrades


@pytest.fixture
def old(tmp_path: Path) -> Filled:
    """Three segments of float32 scans, in a collection that never was asked."""
    filled = Filled(tmp_path / "kb", codec="float32")
    filled.commit(made(LARGE, 1), made(2500, 2), made(300, 3))
    filled.delete(np.arange(10))
    downgrade(filled.path, 1)
    filled.collection.close()
    filled.collection = Collection.open(filled.path, encoder=ENCODER)
    return filled


@low_borders
def test_a_collection_of_before_opens_as_it_is_and_changes_when_it_merges(old: Filled) -> None:
    assert old.forms() == [("scan", "float32")] * 3
    assert old.recall() == 1.0
    assert old.collection.info().codec == "auto"
    old.commit(made(200, 4))
    assert old.forms() == [("scan", "float32")] * 4
    with old.collection.writer() as writer:
        writer.compact()
    assert [kind for kind, _ in old.forms()] == ["graph"]
    check(old)


@low_borders
def test_upgrading_at_once_writes_what_would_be_kept_otherwise(old: Filled) -> None:
    assert old.collection.upgrade() == 2
    kinds = old.forms()
    assert [kind for kind, _ in kinds] == ["graph", "scan", "scan"]
    assert kinds[1:] == [COARSE, ("scan", "float32")]
    check(old)
    generation = old.collection.generation
    assert old.collection.upgrade() == 0
    assert old.collection.generation == generation
    assert Manifest.read(old.path).format == FORMAT


@low_borders
def test_an_interrupted_upgrade_goes_on_where_it_was(old: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    built = 0
    merged = merging.merged

    def interrupted(*given: object, **more: object) -> object:
        nonlocal built
        built += 1
        if built == 2:
            raise KeyboardInterrupt
        return merged(*given, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("rag.collection.merging.merged", interrupted)
        with pytest.raises(KeyboardInterrupt):
            old.collection.upgrade()
    assert [kind for kind, _ in old.forms()] == ["graph", "scan", "scan"]
    assert old.recall() >= 0.98
    assert old.collection.upgrade() == 1
    assert old.forms()[1] == COARSE
    check(old)


@low_borders
def test_upgrading_to_a_codec_and_back(old: Filled) -> None:
    assert old.collection.upgrade("leanvec") == 3
    assert old.forms() == [("scan", "leanvec")] * 3
    assert old.collection.info().codec == "leanvec"
    old.commit(made(50, 9))
    assert old.forms()[-1] == ("scan", "leanvec")
    old.collection.upgrade("auto")
    assert [kind for kind, _ in old.forms()] == ["graph", "scan", "scan", "scan"]
    with pytest.raises(InputError, match="int4"):
        old.collection.upgrade("int4")  # type: ignore[arg-type]
    assert old.recall() >= 0.98


@low_borders
def test_readers_go_on_while_a_collection_is_upgraded(old: Filled) -> None:
    with readers_beside(old.collection, made(5, 77), least=0.9):
        assert old.collection.upgrade() == 2


@low_borders
def test_repair_makes_a_lost_graph_anew(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "kb", encoder=ENCODER) as made_one, made_one.writer() as writer:
        texts = [f"word{i % 997} other{i % 89} third{i % 53} number{i}" for i in range(LARGE)]
        documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
        chunks = [[Chunk(d.id, d.text, 0, len(d.text))] for d in documents]
        writer.add(documents, chunks, ENCODER.encode_documents(texts))
        writer.commit()
    (file,) = (tmp_path / "kb" / "segments").glob("*.vectors")
    with Collection.open(tmp_path / "kb", encoder=ENCODER) as whole:
        (before,) = whole.info().indexes
    assert before.kind == "graph"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with Collection.open(tmp_path / "kb", encoder=ENCODER, repair=True) as damaged:
        assert not damaged.verify().ok
        assert damaged.rebuild().ok
        (after,) = damaged.info().indexes
        assert (after.kind, after.codec, after.chunks) == (before.kind, before.codec, before.chunks)
        for text, hits in zip(texts[:20], damaged.search_dense(ENCODER.encode_queries(texts[:20]), 3), strict=True):
            assert text in [chunk.text for chunk in hits.chunks()]


# --- what rests on the same model


@low_borders
def test_the_recommendation_of_a_profile_is_what_a_collection_does(tmp_path: Path) -> None:
    for n in (1000, 2500, LARGE):
        vectors = made(n, n)
        filled = Filled(tmp_path / str(n))
        filled.commit(vectors)
        advice = recommend.recommend(profile(vectors))
        assert filled.forms() == [(advice.kind, advice.codec)]


# --- filters and recall


@low_borders
def test_a_filter_is_prepared_once_for_each_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled = Filled(tmp_path / "kb")
    filled.commit(made(LARGE, 1), made(500, 2))
    prepared: list[int] = []
    prepare = IdFilter.__init__

    def counted(self: IdFilter, ids: NDArray[np.int64]) -> None:
        prepared.append(len(ids))
        prepare(self, ids)

    monkeypatch.setattr(IdFilter, "__init__", counted)
    first = filled.collection.search_dense(made(3, 9), 5, filter="part == 4")
    assert prepared == [LARGE // 10, 50]
    again = filled.collection.search_dense(made(3, 9), 5, filter="part == 4")
    assert len(prepared) == 2
    assert [hits.ids.tolist() for hits in first] == [hits.ids.tolist() for hits in again]


@low_borders
def test_queries_with_a_filter_each_are_answered_as_one_by_one(tmp_path: Path) -> None:
    filled = Filled(tmp_path / "kb")
    filled.commit(made(LARGE, 1), made(500, 2))
    asked = made(12, 9)
    filters = [None, "part == 1", "part >= 5", "part == 1", None, "part in [2, 3]"] * 2
    together = filled.collection.search_dense(asked, 7, filter=filters)
    for row, (where, hits) in enumerate(zip(filters, together, strict=True)):
        (alone,) = filled.collection.search_dense(asked[row], 7, filter=where)
        assert hits.ids.tolist() == alone.ids.tolist()
    with pytest.raises(InputError, match="3 filters for 12 queries"):
        filled.collection.search_dense(asked, 7, filter=filters[:3])
    words = filled.collection.search_lexical(["word"] * 3, 5, filter=["part == 1", None, "part == 2"])
    assert [{chunk.metadata["part"] for chunk in hits.chunks()} for hits in (words[0], words[2])] == [{1}, {2}]


@low_borders
def test_recall_decides_how_far_a_graph_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled = Filled(tmp_path / "kb")
    filled.commit(made(LARGE, 1))
    asked: list[float] = []
    search = GraphIndex.search

    def watched(self: GraphIndex, *given: object, recall: float, **more: object) -> object:
        asked.append(recall)
        return search(self, *given, recall=recall, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(GraphIndex, "search", watched)
    query = made(1, 9)
    filled.collection.search_dense(query, 10)
    filled.collection.search_dense(query, 10, recall=0.8)
    assert asked == [0.99, 0.8]
    (hits,) = filled.collection.search_dense(query, LARGE)
    assert len(hits.ids) == LARGE
    for wrong in (0, 1.1, float("nan"), True):
        with pytest.raises(InputError, match="recall is"):
            filled.collection.search_dense(query, 10, recall=wrong)


@low_borders
def test_all_chunks_can_be_asked_for(tmp_path: Path) -> None:
    filled = Filled(tmp_path / "kb")
    filled.commit(made(LARGE, 1), made(2000, 2), made(100, 3))
    (hits,) = filled.collection.search_dense(made(1, 9), 10_000)
    assert sorted(hits.ids.tolist()) == sorted(filled.held)


# --- other engines decide by themselves


@low_borders
def test_faiss_keeps_its_own_kind_of_index(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    filled = Filled(tmp_path / "kb", engine="faiss:flat")
    filled.commit(made(LARGE, 1), made(500, 2))
    assert filled.forms() == [("faiss:flat", "float32")] * 2
    assert filled.collection.info().codec == "float32"
    assert filled.recall() == 1.0
    with filled.collection.writer() as writer:
        writer.compact()
    assert filled.recall(filter="part == 3") == 1.0
    with pytest.raises(InputError, match="faiss:flat, which decides by itself"):
        filled.collection.upgrade()
