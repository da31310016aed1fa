"""The engine's files: damage of any section in any codec is noticed at open or at first touch, and so is forgery."""

from __future__ import annotations

import json
import os
import resource
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag._native import crc32c
from rag.errors import CollectionError, DamagedFileError, RagError
from rag.index import CODECS, Codec, LexicalIndex, ScanIndex, files, search_lexical
from rag.index.files import ALIGNMENT, CHUNK, HEADER, read_sections, write_sections
from tests.index import fuzz_files
from tests.index.conformance import random_vectors

ROWS, DIM = 3000, 48
QUERIES = random_vectors(np.random.default_rng(1), 3, DIM)


def build(codec: Codec, rows: int = ROWS) -> ScanIndex:
    index = ScanIndex(DIM, "cosine", codec)
    index.add(np.arange(rows), random_vectors(np.random.default_rng(0), rows, DIM))
    index.delete(np.array([4, rows // 2, rows - 1]))
    return index


def answers(index: ScanIndex) -> list[Any]:
    found = index.search(QUERIES, 10)
    return [found.ids.tolist(), found.scores.tolist(), index.vectors(np.arange(5, 900)).tolist()]


def places(data: bytes) -> dict[str, tuple[int, int]]:
    """Where the parts of a file lie: from, to."""
    _, table, rest = fuzz_files.parts(data)
    end = len(data) - len(rest)
    sections = {s["name"]: (s["offset"], s["offset"] + s["length"]) for s in table["sections"]}
    return {"header": (0, ALIGNMENT), "table": (ALIGNMENT, end), **sections}


@pytest.fixture(scope="module", params=CODECS)
def sound(request: pytest.FixtureRequest) -> tuple[ScanIndex, bytes]:
    """An index and its file, of which chunks are 8 KiB, so that all that is large is checked at first touch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK", 8192)
        path = Path(request.getfixturevalue("tmp_path_factory").mktemp("sound") / "index")
        index = build(request.param)
        index.save(path)
    return index, path.read_bytes()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK", 8192)


def flip(data: bytes, start: int, end: int, rng: np.random.Generator) -> bytes:
    raw = bytearray(data)
    raw[int(rng.integers(start, end))] ^= 1 << int(rng.integers(8))
    return bytes(raw)


def zero(data: bytes, start: int, end: int, rng: np.random.Generator) -> bytes:
    raw = bytearray(data)
    at = int(rng.integers(start, end))
    raw[at : min(at + 8192, end)] = bytes(min(at + 8192, end) - at)
    return bytes(raw)


def cut_off(data: bytes, start: int, end: int, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(start, end))]


def cut_out(data: bytes, start: int, end: int, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(start, end))
    return data[:at] + data[min(at + 8192, end) :]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("damage", [flip, zero, cut_off, cut_out])
def test_damage_of_any_section_is_noticed_at_open_or_at_first_touch(
    sound: tuple[ScanIndex, bytes], damage: Callable[..., bytes], tmp_path: Path
) -> None:
    index, data = sound
    rng, path = np.random.default_rng(2), tmp_path / "index"
    at_open = 0
    for name, (start, end) in places(data).items():
        for _ in range(6):
            damaged = damage(data, start, end, rng)
            path.write_bytes(damaged)
            if damaged == data:  # zeros where there were zeros
                assert answers(ScanIndex.open(path)) == answers(index)
                continue
            try:
                opened = ScanIndex.open(path)
            except CollectionError as error:
                caught: CollectionError = error
                at_open += 1
            else:
                assert name in ("codes", "factors", "secondary")
                with pytest.raises(DamagedFileError) as at_first_touch:
                    answers(opened)
                caught = at_first_touch.value
            assert str(path) in str(caught)
            if damage is flip and name not in ("header", "table"):
                assert isinstance(caught, DamagedFileError)
                assert repr(name) in str(caught)
    assert at_open


@pytest.mark.usefixtures("small_chunks")
def test_what_was_found_damaged_stays_so(sound: tuple[ScanIndex, bytes], tmp_path: Path) -> None:
    _, data = sound
    start, _ = places(data)["codes"]
    (tmp_path / "index").write_bytes(flip(data, start + 20_000, start + 20_001, np.random.default_rng(0)))
    index = ScanIndex.open(tmp_path / "index")
    assert len(index) == ROWS - 3
    uses: list[Callable[[], object]] = [
        lambda: index.search(QUERIES, 3),
        lambda: index.search(QUERIES[:1], 3, filter=np.array([1, 2])),
        lambda: index.vectors(np.array([1])),
        lambda: index.save(tmp_path / "copy"),  # not copied under checksums that are right
    ]
    for use in [*uses, *uses]:
        with pytest.raises(DamagedFileError, match=r"index section 'codes'.*between its bytes 16384 and 24576"):
            use()
    assert not (tmp_path / "copy").exists()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("length", [0, 100, 30_000, -1])
def test_a_file_that_is_cut_after_it_was_opened(sound: tuple[ScanIndex, bytes], length: int, tmp_path: Path) -> None:
    """Reading a mapped page that is no more there would end the process."""
    _, data = sound
    path = tmp_path / "index"
    path.write_bytes(data)
    index = ScanIndex.open(path)
    os.truncate(path, length % len(data))
    for _ in range(2):
        with pytest.raises(DamagedFileError, match=f"index is {length % len(data)} bytes long, it was {len(data)}"):
            index.search(QUERIES, 3)


def test_only_what_is_large_waits_and_is_checked_by_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, 18 * CHUNK + 5, np.uint8)
    write_sections(tmp_path / "file", "test", {}, {"large": [large[:7], large[7:]], "small": [large[:CHUNK]]})
    file = read_sections(tmp_path / "file", "test")
    np.testing.assert_array_equal(file.unchecked("large"), large)
    file.check()
    entry, small = fuzz_files.parts((tmp_path / "file").read_bytes())[1]["sections"]
    assert entry["crc32c"] == [crc32c(large[i : i + CHUNK]) for i in range(0, len(large), CHUNK)]
    assert small["crc32c"] == [crc32c(large[:CHUNK])]

    for position in (0, 17 * CHUNK + 3, 18 * CHUNK + 4):
        with (tmp_path / "file").open("r+b") as raw:
            raw.seek(entry["offset"] + position)
            raw.write(bytes([large[position] ^ 1]))
        damaged = read_sections(tmp_path / "file", "test")
        damaged.unchecked("large")
        damaged.section("small")
        chunk = position // CHUNK * CHUNK
        for cores in (1, 4):
            monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
            again = read_sections(tmp_path / "file", "test")
            with pytest.raises(DamagedFileError, match=f"'large'.*between its bytes {chunk} and"):
                again.check()
        with pytest.raises(DamagedFileError, match="'large'"):
            damaged.section("large")
        with (tmp_path / "file").open("r+b") as raw:
            raw.seek(entry["offset"] + position)
            raw.write(bytes([large[position]]))


# --- versions


def as_version_1(data: bytes) -> bytes:
    """The file as the first release wrote it: one checksum a section."""
    header, table, rest = fuzz_files.parts(data)
    for entry in table["sections"]:
        entry["crc32c"] = crc32c(data[entry["offset"] : entry["offset"] + entry["length"]])
    return fuzz_files.assembled(table, rest, HEADER.unpack(header[: HEADER.size])[2], version=1)


@pytest.mark.usefixtures("small_chunks")
def test_files_of_version_1_are_read_and_written_anew(sound: tuple[ScanIndex, bytes], tmp_path: Path) -> None:
    index, data = sound
    path, old = tmp_path / "index", as_version_1(data)
    path.write_bytes(old)
    opened = ScanIndex.open(path)
    assert answers(opened) == answers(index)
    opened.save(path)
    assert path.read_bytes() == data
    for name in ("codes", "tombstones"):
        path.write_bytes(flip(old, *places(old)[name], np.random.default_rng(0)))
        with pytest.raises(DamagedFileError, match=repr(name)):
            answers(ScanIndex.open(path))


@pytest.mark.parametrize("version", [3, 200, 2**32 - 1])
def test_a_version_from_the_future(tmp_path: Path, version: int) -> None:
    build("float32", 20).save(tmp_path / "index")
    raw = bytearray((tmp_path / "index").read_bytes())
    raw[8:12] = struct.pack("<I", version)
    (tmp_path / "index").write_bytes(raw)
    with pytest.raises(CollectionError, match=f"version {version}.*up to 2.*upgrade") as caught:
        ScanIndex.open(tmp_path / "index")
    assert not isinstance(caught.value, DamagedFileError)


# --- forged tables: the checksums are right


def forge(path: Path, change: Callable[[Any], Any]) -> None:
    header, table, rest = fuzz_files.parts(path.read_bytes())
    path.write_bytes(fuzz_files.assembled(change(table) or table, rest, HEADER.unpack(header[: HEADER.size])[2]))


ODD_NUMBERS = [-1, -64, 1, 63, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 64, 10**30, 0.5, 1e300, True, None, "64", [], {}]


@pytest.mark.parametrize("key", ["offset", "length"])
@pytest.mark.parametrize("number", ODD_NUMBERS, ids=repr)
@pytest.mark.parametrize("section", [0, 1, -1])
def test_sections_that_cannot_lie_where_the_table_says(tmp_path: Path, key: str, number: Any, section: int) -> None:
    path = tmp_path / "index"
    build("int8", 100).save(path)
    forge(path, lambda table: table["sections"][section].update({key: number}))
    with pytest.raises(DamagedFileError, match="index"):
        ScanIndex.open(path)


TABLES: dict[str, Callable[[Any], Any]] = {
    "overlap": lambda t: t["sections"][1].update(offset=t["sections"][0]["offset"]),
    "shifted": lambda t: [s.update(offset=s["offset"] + 64) for s in t["sections"]] and None,
    "same name twice": lambda t: t["sections"][1].update(name=t["sections"][0]["name"]),
    "name is a number": lambda t: t["sections"][1].update(name=1),
    "name is a list": lambda t: t["sections"][1].update(name=["codes"]),
    "another name": lambda t: t["sections"][1].update(name="cods"),
    "entry left out": lambda t: t["sections"].pop(),
    "entry twice": lambda t: t["sections"].append(t["sections"][-1]),
    "order": lambda t: t["sections"].reverse(),
    "no sections": lambda t: t.update(sections=[]),
    "entries are numbers": lambda t: t.update(sections=[1, 2]),
    "sections are an object": lambda t: t.update(sections={}),
    "no meta": lambda t: t.pop("meta") and None,
    "meta is a list": lambda t: t.update(meta=[]),
    "kind is null": lambda t: t.update(kind=None),
    "a list": lambda t: [t],
    "a number": lambda t: 5,
    "no checksums": lambda t: t["sections"][1].update(crc32c=[]),
    "too many checksums": lambda t: t["sections"][1]["crc32c"].append(0),
    "a checksum as in version 1": lambda t: t["sections"][1].update(crc32c=t["sections"][1]["crc32c"][0]),
    "checksums are words": lambda t: t["sections"][1].update(crc32c=["x"]),
    "rows negative": lambda t: t["meta"].update(rows=-1),
    "rows one more": lambda t: t["meta"].update(rows=101),
    "rows one less": lambda t: t["meta"].update(rows=99),
    "rows that overflow": lambda t: t["meta"].update(rows=2**64 - 1),
    "rows so that sizes wrap around": lambda t: t["meta"].update(rows=2**58 + 100),
    "rows as text": lambda t: t["meta"].update(rows="100"),
    "no rows": lambda t: t["meta"].pop("rows") and None,
    "dim 0": lambda t: t["meta"].update(dim=0),
    "dim true": lambda t: t["meta"].update(dim=True),
    "dim larger": lambda t: t["meta"].update(dim=480),
    "dim as text": lambda t: t["meta"].update(dim="48"),
    "metric": lambda t: t["meta"].update(metric="dot"),
    "metric is null": lambda t: t["meta"].update(metric=None),
    "codec": lambda t: t["meta"].update(codec="int4"),
    "another codec": lambda t: t["meta"].update(codec="float32"),
    "learned is a list": lambda t: t["meta"].update(learned=[1]),
    "learned has another shape": lambda t: t["meta"]["learned"].update(base=[48, 208]),
    "learned has a shape of text": lambda t: t["meta"]["learned"].update(base="208"),
    "learned has a negative shape": lambda t: t["meta"]["learned"].update(base=[-1, -1]),
    "half of what was learned": lambda t: t["meta"]["learned"].pop("base") and None,
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_make_no_sense(tmp_path: Path, name: str) -> None:
    path = tmp_path / "index"
    build("leanvec", 100).save(path)
    forge(path, TABLES[name])
    with pytest.raises(DamagedFileError, match="index"):
        ScanIndex.open(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"1" * 5000, b"\xff\xfe{", b"\0" * 64, b'"\\ud800"'])
def test_tables_that_are_no_json(tmp_path: Path, text: bytes) -> None:
    header = HEADER.pack(b"RAGINDEX", 2, len(text), 0, 0, 0).ljust(ALIGNMENT, b"\0")
    (tmp_path / "index").write_bytes(fuzz_files.sealed(header + text))
    with pytest.raises(DamagedFileError, match="table"):
        ScanIndex.open(tmp_path / "index")


def test_a_table_longer_than_the_file(tmp_path: Path) -> None:
    build("float32", 20).save(tmp_path / "index")
    data = (tmp_path / "index").read_bytes()
    start = struct.pack("<8sIIQI", b"RAGINDEX", 2, 2**32 - 1, len(data), 0)
    (tmp_path / "index").write_bytes(start + struct.pack("<I", crc32c(start)) + data[HEADER.size :])
    with pytest.raises(DamagedFileError, match="'table'"):
        ScanIndex.open(tmp_path / "index")


CONTENTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "negative ids": ("ids", lambda raw: raw.view(np.int64).__setitem__(3, -5)),
    "tombstones beyond the rows": ("tombstones", lambda raw: raw.view(np.uint64).__setitem__(-1, 2**63)),
    "a mean that is not finite": ("mean", lambda raw: raw.view(np.float32).__setitem__(0, np.nan)),
    "a matrix that is not finite": ("query", lambda raw: raw.view(np.float32).__setitem__(9, np.inf)),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_contents_that_make_no_sense(tmp_path: Path, name: str) -> None:
    path = tmp_path / "index"
    build("leanvec", 100).save(path)
    file = read_sections(path, "scan")
    sections = {section: file.section(section).copy() for section in file.names}
    section, change = CONTENTS[name]
    change(sections[section])
    write_sections(path, "scan", file.meta, {name: [content] for name, content in sections.items()})
    with pytest.raises(DamagedFileError, match=repr(section)):
        ScanIndex.open(path)


def test_forged_numbers_that_are_none_come_last(tmp_path: Path) -> None:
    path = tmp_path / "index"
    build("int8").save(path)
    file = read_sections(path, "scan")
    sections = {section: file.section(section).copy() for section in file.names}
    secondary = sections["secondary"].view(np.float16).reshape(ROWS, -1)
    secondary[::3] = np.nan
    write_sections(path, "scan", file.meta, {name: [content] for name, content in sections.items()})
    found = ScanIndex.open(path).search(QUERIES, ROWS - 3)
    sound = ROWS * 2 // 3 - 2  # two of the deleted ones were
    assert np.isfinite(found.scores[:, :sound]).all()
    assert (found.ids[:, :sound] % 3 > 0).all()
    assert np.isneginf(found.scores[:, sound:]).all()


@pytest.mark.parametrize("meta", [{"counts": "float64"}, {"counts": ["uint8"]}, {"counts": "S1"}, {"language": 5}, {}])
def test_a_lexical_index_with_settings_that_make_no_sense(tmp_path: Path, meta: dict[str, Any]) -> None:
    path = tmp_path / "words"
    LexicalIndex.build([1, 2], ["wings", "birds"]).save(path)
    assert search_lexical([LexicalIndex.open(path)], ["bird"], 1).ids.tolist() == [[2]]
    forge(path, lambda table: table.update(meta={**table["meta"], **meta} if meta else {}))
    with pytest.raises(DamagedFileError, match="words"):
        LexicalIndex.open(path)


# --- writing


@pytest.mark.parametrize("limit", [0, 100, 5000, 40_000])
def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "index"
    build("int8").save(path)
    before, opened = path.read_bytes(), ScanIndex.open(path)
    opened.add(np.array([10_000]), QUERIES[:1])
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(CollectionError, match="cannot write") as caught:
            opened.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "free space" in str(caught.value.hint)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    opened.save(path)
    assert len(ScanIndex.open(path)) == ROWS - 2


def test_a_file_has_the_rights_that_any_new_file_has(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    build("float32", 10).save(tmp_path / "index")
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "index")]
    assert rights[0] == rights[1]


def test_the_same_index_makes_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build("leanvec").save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    table = fuzz_files.parts((tmp_path / "a").read_bytes())[1]
    assert json.dumps(table["meta"])
    assert all(entry["offset"] % 64 == 0 for entry in table["sections"])


# --- the fuzzer


@pytest.mark.parametrize("seed", [1, 2])
def test_a_short_run_of_the_fuzzer(tmp_path: Path, seed: int) -> None:
    number, refused = fuzz_files.run(tmp_path, seed, seconds=600, rounds=400)
    assert number == 400
    assert 200 < refused < 400
    assert issubclass(DamagedFileError, RagError)
