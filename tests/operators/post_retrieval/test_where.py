"""Keeping the hits that pass a filter, against the metadata of their chunks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.collection import Collection
from rag.errors import ConfigError, InputError
from rag.operators.post_retrieval import Where
from rag.types import Chunk, Document, Hits

LANGUAGES = ("en", "de", "fr")


def fill(path: Path, count: int) -> Collection:
    made = Collection.create(path, encoder="hashing:16")
    documents = [Document(f"d{i}", f"text {i}", {"year": 2000 + i, "lang": LANGUAGES[i % 3]}) for i in range(count)]
    with made.writer() as writer:
        chunks = [[Chunk(d.id, d.text, 0, len(d.text))] for d in documents]
        writer.add(documents, chunks, made.encoder.encode_documents([d.text for d in documents]))
        writer.commit()
    return made.refresh()


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    with fill(tmp_path_factory.mktemp("where") / "kb", 30) as made:
        yield made


@given(rows=st.lists(st.integers(0, 29), unique=True), since=st.integers(1998, 2032))
@settings(max_examples=60, deadline=None)
def test_it_keeps_what_passes_in_its_order(kb: Collection, rows: list[int], since: int):
    hits = Hits(kb.chunk_ids()[rows], -np.arange(len(rows)), {"rank": np.arange(len(rows))}, kb)
    kept = Where(filter=f'year >= {since} and lang == "en"').run(hits, kb)
    passing = [(i, row) for i, row in enumerate(rows) if 2000 + row >= since and row % 3 == 0]
    assert [chunk.document for chunk in kept.chunks()] == [f"d{row}" for _, row in passing]
    assert kept.columns["rank"].tolist() == [i for i, _ in passing]
    assert kept.scores.tolist() == [-i for i, _ in passing]


def test_a_batch_gives_the_same(kb: Collection):
    where = Where(filter="year < 2010")
    batch = [Hits(kb.chunk_ids()[::step], np.zeros(len(kb.chunk_ids()[::step])), store=kb) for step in (1, 7, 30)]
    assert where.run_batch([*batch, Hits()], kb) == [where.run(hits, kb) for hits in [*batch, Hits()]]


def test_wrong_filters(kb: Collection):
    with pytest.raises(ConfigError, match=r"(?s)post_retrieval.where: setting 'filter'.*write == to compare"):
        Where(filter="year = 2000")
    with pytest.raises(ConfigError, match=r"(?s)no document has a field 'yaer'.*did you mean 'year'"):
        Where(filter="yaer > 2000").run(Hits(), kb)


def test_hits_of_another_collection_are_refused(kb: Collection, tmp_path: Path):
    with (
        fill(tmp_path / "other", 3) as other,
        pytest.raises(InputError, match=r"hits from the collection .*other meet the collection .*kb"),
    ):
        Where(filter="year > 2000").run(Hits(other.chunk_ids(), [3, 2, 1], store=other), kb)
