"""Saving, opening and refusing damaged lexical indexes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rag.errors import DamagedFileError, NotFoundError
from rag.index.files import ALIGNMENT, HEADER
from rag.index.lexical import LexicalIndex, search_lexical

TEXTS = ["wings of birds", "jet engines", "", "wing flutter of jets", "知识"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "lexical"
    LexicalIndex.build([5, 3, 9, 1, 2], TEXTS).save(path)
    return path


def sections(path: Path) -> dict[str, tuple[int, int]]:
    """Name -> (offset in the file, bytes) of each section."""
    raw = path.read_bytes()
    table = json.loads(raw[ALIGNMENT : ALIGNMENT + HEADER.unpack_from(raw)[2]])
    return {s["name"]: (s["offset"], s["length"]) for s in table["sections"]}


def test_an_opened_index_finds_what_the_built_one_found(saved: Path) -> None:
    built, opened = LexicalIndex.build([5, 3, 9, 1, 2], TEXTS), LexicalIndex.open(saved)
    assert len(opened) == 5
    assert opened.language == "english"
    assert opened.ids.tolist() == [1, 2, 3, 5, 9]
    queries = ["jet wing", "birds", "知识", "nothing"]
    for ours, theirs in zip(search_lexical([opened], queries, 4), search_lexical([built], queries, 4), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [p.name for p in saved.parent.iterdir()] == ["lexical"], "no temporary file is left"


def test_an_empty_index_can_be_saved(tmp_path: Path) -> None:
    LexicalIndex.build([], []).save(tmp_path / "empty")
    assert len(LexicalIndex.open(tmp_path / "empty")) == 0


def test_saving_replaces_the_file_under_an_open_index(saved: Path) -> None:
    opened = LexicalIndex.open(saved)
    LexicalIndex.build([1], ["other"]).save(saved)
    assert search_lexical([opened], ["birds"], 1).ids.tolist() == [[5]]
    assert search_lexical([LexicalIndex.open(saved)], ["other"], 1).ids.tolist() == [[1]]


@pytest.mark.parametrize("name", ["ids", "lengths", "spelling", "term_offsets", "posting_offsets", "rows", "counts"])
def test_a_flipped_bit_is_reported_with_its_section(saved: Path, name: str) -> None:
    raw = bytearray(saved.read_bytes())
    offset, size = sections(saved)[name]
    raw[offset + size // 2] ^= 4
    saved.write_bytes(raw)
    with pytest.raises(DamagedFileError, match=f"{saved.name}.*'{name}'"):
        LexicalIndex.open(saved)


@pytest.mark.parametrize("position", [0, 12, 30, 70])
def test_a_damaged_header_is_reported(saved: Path, position: int) -> None:
    raw = bytearray(saved.read_bytes())
    raw[position] ^= 1
    saved.write_bytes(raw)
    with pytest.raises(DamagedFileError, match=saved.name):
        LexicalIndex.open(saved)


def test_every_truncation_is_reported(saved: Path) -> None:
    raw = saved.read_bytes()
    for length in range(0, len(raw), 7):
        saved.write_bytes(raw[:length])
        with pytest.raises(DamagedFileError, match=saved.name):
            LexicalIndex.open(saved)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        LexicalIndex.open(tmp_path / "nowhere")
