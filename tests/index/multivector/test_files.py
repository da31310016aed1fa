"""Files of token stores: what comes back, and that damage and forgery are noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.errors import CollectionError, DamagedFileError, NotFoundError, RagError
from rag.index import ScanIndex, files
from rag.index.files import read_sections, write_sections
from rag.index.multivector import TOKEN_CODECS, TokenCodec, TokenStore
from tests.index.fuzz_files import parts
from tests.index.multivector.ragged import ragged

QUERIES = ragged(np.random.default_rng(1), [5, 20], 48)


def build(codec: TokenCodec) -> TokenStore:
    rng = np.random.default_rng(0)
    store = TokenStore(48, codec)
    store.add(np.arange(100), *ragged(rng, list(rng.integers(1, 60, 100)), 48))
    store.delete(np.array([4, 50, 99]))
    return store


def answers(store: TokenStore) -> list[Any]:
    found, tokens = store.maxsim(*QUERIES, k=20), store.vectors(np.arange(5, 40))
    return [array.tolist() for array in (*found, *tokens)]


@pytest.mark.parametrize("codec", TOKEN_CODECS)
def test_what_was_saved_comes_back(codec: TokenCodec, tmp_path: Path) -> None:
    store, path = build(codec), tmp_path / "tokens"
    store.save(path)
    opened = TokenStore.open(path)
    assert (opened.codec, opened.dim, len(opened), opened.tokens) == (codec, 48, 97, store.tokens)
    assert answers(opened) == answers(store)
    assert opened.stats() == store.stats()


@pytest.mark.parametrize("codec", TOKEN_CODECS)
def test_an_opened_store_can_be_changed_and_saved_again(codec: TokenCodec, tmp_path: Path) -> None:
    store, path = build(codec), tmp_path / "tokens"
    store.save(path)
    before = path.read_bytes()
    opened = TokenStore.open(path)
    more = ragged(np.random.default_rng(2), [9, 1, 70], 48)
    for changed in (store, opened):
        changed.delete(np.array([70, 71]))
        changed.add(np.array([4, 300, 200]), *more)
    assert answers(opened) == answers(store)
    opened.save(tmp_path / "again")
    again = TokenStore.open(tmp_path / "again")
    assert answers(again) == answers(store)
    again.compact()
    assert answers(again) == answers(store)
    assert again.stats().tombstones == 0
    assert again.stats().bytes["ids"] == 8 * len(again)
    again.save(path)  # over the file that is mapped
    assert answers(TokenStore.open(path)) == answers(store)
    assert len(path.read_bytes()) < len(before) + 10_000


def test_an_empty_store_comes_back(tmp_path: Path) -> None:
    for codec in TOKEN_CODECS:
        TokenStore(48, codec).save(tmp_path / codec)
        opened = TokenStore.open(tmp_path / codec)
        opened.add([1], *ragged(np.random.default_rng(2), [3], 48))
        assert len(opened) == 1


@pytest.mark.parametrize("codec", TOKEN_CODECS)
def test_damage_of_any_section_is_noticed(codec: TokenCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK", 4096)  # so that not all of it is checked when it is opened
    path = tmp_path / "tokens"
    build(codec).save(path)
    data = path.read_bytes()
    _, table, _ = parts(data)
    rng = np.random.default_rng(3)
    for section in table["sections"]:
        for _ in range(8):
            raw = bytearray(data)
            raw[section["offset"] + int(rng.integers(section["length"]))] ^= 1 << int(rng.integers(8))
            path.write_bytes(raw)
            with pytest.raises(DamagedFileError, match=f"section '{section['name']}' fails its checksum"):
                answers(TokenStore.open(path))
    for length in rng.integers(0, len(data), 30):
        path.write_bytes(data[:length])
        with pytest.raises(DamagedFileError):
            TokenStore.open(path)


def forged(path: Path, meta: dict[str, Any] | None = None, **sections: np.ndarray) -> None:
    """The same file under right checksums, with something else in it."""
    file = read_sections(path)
    content = {name: file.section(name).copy() for name in file.names}
    content |= {name: np.ascontiguousarray(array).reshape(-1).view(np.uint8) for name, array in sections.items()}
    write_sections(path, file.kind, {**file.meta, **(meta or {})}, {name: [array] for name, array in content.items()})


@pytest.mark.parametrize(
    "forgery",
    [
        {"ends": np.arange(100, dtype=np.uint64)},
        {"ends": np.full(100, 2**63, np.uint64)},
        {"ends": np.arange(1, 101, dtype=np.uint64)},
        {"ids": np.full(100, -1, np.int64)},
        {"tombstones": np.full(2, 2**64 - 1, np.uint64)},
        {"codes": np.zeros(7, np.uint8)},
        {"base": np.full((48, 48), np.nan, np.float32)},
        {"base": np.zeros((47, 48), np.float32)},
        {"centroids": np.zeros(48, np.float32)},
        {"meta": {"tokens": 2**60}},
        {"meta": {"documents": True}},
        {"meta": {"codec": "residual9"}},
        {"meta": {"codec": "residual4"}},
        {"meta": {"codec": "int8"}},
        {"meta": {"dim": 0}},
        {"meta": {"learned": None}},
        {"meta": {"learned": {}}},
        {"meta": {"learned": {"spread": -1.0}}},
        {"meta": {"codec": "sign"}},
    ],
)
def test_forged_files_are_refused(forgery: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    build("residual2").save(path)
    forged(path, **forgery)
    with pytest.raises(DamagedFileError, match="holds no tokens that can be read|has no section"):
        TokenStore.open(path)


LINE = {"slope": 1.0, "mean_slope": 1.0, "constant": 0.0}


@pytest.mark.parametrize(
    "forgery",
    [
        {"mean": np.zeros(47, np.float32)},
        {"base": np.full((48, 48), np.inf, np.float32)},
        {"inverse": np.zeros((48, 47), np.float32)},
        {"meta": {"learned": LINE | {"slope": 0.0}}},
        {"meta": {"learned": LINE | {"constant": float("nan")}}},
        {"meta": {"learned": {"slope": 1.0}}},
        {"meta": {"codec": "residual4"}},
    ],
)
def test_forged_sign_codes_are_refused(forgery: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    build("sign").save(path)
    forged(path, meta={"learned": LINE})
    TokenStore.open(path)
    forged(path, **forgery)
    with pytest.raises(DamagedFileError, match="holds no tokens that can be read|has no section"):
        TokenStore.open(path)


@pytest.mark.parametrize("codec", TOKEN_CODECS)
def test_any_codes_under_right_checksums_stay_within_memory(codec: TokenCodec, tmp_path: Path) -> None:
    path, rng = tmp_path / "tokens", np.random.default_rng(4)
    build(codec).save(path)
    size = read_sections(path).sizes["codes"]
    for _ in range(5):
        forged(path, codes=rng.integers(0, 256, size, np.uint8))
        found = TokenStore.open(path).maxsim(*QUERIES, k=200)
        assert (np.sort(found.ids[0])[-97:] >= 0).all()
        assert not np.isnan(found.scores).any()


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        TokenStore.open(tmp_path / "none")
    ScanIndex(4).save(tmp_path / "scan")
    with pytest.raises(CollectionError, match="holds an index of kind 'scan', not 'tokens'"):
        TokenStore.open(tmp_path / "scan")
    build("float16").save(tmp_path / "tokens")
    with pytest.raises(RagError, match="of kind 'tokens', not 'scan'"):
        ScanIndex.open(tmp_path / "tokens")
    with pytest.raises(CollectionError, match="cannot write"):
        build("float16").save(tmp_path / "no folder" / "tokens")
