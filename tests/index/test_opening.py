"""Opening a file of whichever kind, and what its header tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag.errors import CollectionError, DamagedFileError, NotFoundError
from rag.index import GraphIndex, LexicalIndex, ScanIndex, open_index
from rag.index.opening import describe
from tests.index.conformance import random_vectors

VECTORS = random_vectors(np.random.default_rng(0), 5000, 24)
IDS = np.arange(5000) * 3


def test_a_file_is_opened_as_what_it_is(tmp_path: Path):
    for index in (ScanIndex(24, "l2", "lvq8"), GraphIndex(24, "cosine", "int8", degree=16)):
        index.add(IDS, VECTORS)
        index.delete(IDS[:7])
        index.save(tmp_path / "file")
        opened = open_index(tmp_path / "file")
        assert type(opened) is type(index)
        assert (opened.codec, opened.metric, len(opened)) == (index.codec, index.metric, 4993)
        assert np.array_equal(opened.search(VECTORS[:9], 4).ids, index.search(VECTORS[:9], 4).ids)


def test_the_header_tells_what_the_file_holds(tmp_path: Path):
    scan, graph = ScanIndex(24, "l2", "lvq8"), GraphIndex(24, "cosine", "int8", degree=16)
    for index in (scan, graph):
        index.add(IDS, VECTORS)
        index.delete(IDS[:7])
    scan.save(tmp_path / "scan")
    graph.save(tmp_path / "graph")
    told = describe(tmp_path / "scan")
    assert (told.kind, told.codec, told.rows, told.degree, told.effort) == ("scan", "lvq8", 5000, None, None)
    told = describe(tmp_path / "graph")
    assert (told.kind, told.codec, told.rows, told.degree) == ("graph", "int8", 5000, 16)
    assert told.effort == graph.stats().effort is not None
    assert told.bytes["links"] == 5000 * 16 * 4
    assert sum(told.bytes.values()) < (tmp_path / "graph").stat().st_size


def test_what_cannot_be_opened(tmp_path: Path):
    with pytest.raises(NotFoundError):
        open_index(tmp_path / "nothing")
    LexicalIndex.build(np.arange(1), ["word"]).save(tmp_path / "words")
    with pytest.raises(CollectionError, match="'lexical', neither a scan nor a graph"):
        open_index(tmp_path / "words")
    (tmp_path / "damaged").write_bytes(b"RAGINDEX" + bytes(100))
    for act in (open_index, describe):
        with pytest.raises(DamagedFileError):
            act(tmp_path / "damaged")
