"""The store in a folder: what comes back, and what becomes of files that are not what they should be."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import ConfigError, InputError
from rag.kvcache import DiskStore
from rag.kvcache.directory import Directory
from tests.kvcache.made import equal, key_of, made


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.states")
    return path


@pytest.mark.torch
def test_what_is_put_is_there_for_the_next_process(torch: ModuleType, tmp_path: Path):
    first = DiskStore(tmp_path / "new" / "folder")
    states = made(1, extra={"score": np.arange(3.0)})
    first.put(states)
    second = DiskStore(tmp_path / "new" / "folder")
    back = second.get(key_of(1))
    assert equal(back, states)
    assert back is not None
    assert back.checksum == states.checksum
    assert back.extra["score"].tolist() == [0, 1, 2]
    assert second.get(key_of(2)) is None
    second.discard(key_of(1))
    assert first.get(key_of(1)) is None
    assert len(first) == first.nbytes == 0


@pytest.mark.torch
def test_the_same_states_are_not_written_again(torch: ModuleType, tmp_path: Path):
    store = DiskStore(tmp_path, codec="int8")
    store.put(made(1))
    inode = only_file(tmp_path).stat().st_ino
    store.put(made(1))
    rounded = store.get(key_of(1))
    assert rounded is not None
    store.put(rounded)
    assert only_file(tmp_path).stat().st_ino == inode
    DiskStore(tmp_path).put(made(1))  # which keeps every bit
    assert equal(store.get(key_of(1)), made(1))
    store.put(made(1, seed=1))
    assert equal(DiskStore(tmp_path).get(key_of(1)), store.get(key_of(1)))
    assert not equal(store.get(key_of(1)), made(1))


@pytest.mark.torch
def test_what_the_folder_tells(torch: ModuleType, tmp_path: Path):
    store = DiskStore(tmp_path, codec="int8")
    store.put(made(1, 5))
    store.put(made(2, 7))
    store.get(key_of(2))
    store.touch(key_of(2))
    found = {entry.key: entry for entry in store.entries()}
    assert {key.segment: (entry.tokens, entry.uses, entry.model, entry.codec) for key, entry in found.items()} == {
        "1": (5, 1, "m", "int8"),
        "2": (7, 3, "m", "int8"),
    }
    assert sum(entry.nbytes for entry in found.values()) == store.nbytes
    assert key_of(2) in store
    assert key_of(3) not in store
    assert store.clear() == 2
    assert not list(store.entries())


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.torch
def test_every_changed_bit_is_seen(torch: ModuleType, tmp_path: Path):
    store = DiskStore(tmp_path)
    store.put(made(1, 2))
    whole = only_file(tmp_path).read_bytes()
    for at in range(len(whole)):
        path = tmp_path / "x.tmp"
        path.write_bytes(whole)
        flip(path, at)
        os.replace(path, tmp_path / only_name(store, 1))
        found = store.get(key_of(1))
        assert (found is None) == (not 40 <= at < 64), at  # where the record of its use stands
        assert found is None or equal(found, made(1, 2))


def only_name(store: DiskStore, name: int) -> str:
    from rag.kvcache.disk import _name

    return f"{_name(key_of(name))}.states"


@pytest.mark.torch
@pytest.mark.parametrize(
    "harm",
    [
        lambda path, other: path.write_bytes(path.read_bytes()[:-1]),
        lambda path, other: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path, other: path.write_bytes(b""),
        lambda path, other: path.write_bytes(b"RAGSTATE" + bytes(56)),
        lambda path, other: path.write_bytes(os.urandom(5000)),
        lambda path, other: os.replace(other, path),
    ],
    ids=["short", "long", "empty", "zeros", "noise", "another's"],
)
def test_a_file_that_is_not_what_its_name_says_is_dropped(
    torch: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path, Path], Any]
):
    store = DiskStore(tmp_path)
    store.put(made(1))
    path = only_file(tmp_path)
    store.put(made(2))
    harm(path, tmp_path / only_name(store, 2))
    with caplog.at_level(logging.WARNING, "rag.kvcache"):
        assert store.get(key_of(1)) is None
    assert path.name in caplog.text
    assert not path.exists()
    store.put(made(1))
    assert equal(store.get(key_of(1)), made(1))


@pytest.mark.torch
def test_a_full_disk_is_told_once_and_nothing_is_stored(
    torch: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    store = DiskStore(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "rag.kvcache"):
        patched.setattr(os, "writev", full)
        store.put(made(1))
        store.put(made(2))
    assert caplog.text.count("No space left") == 1
    assert store.nbytes == 0
    assert os.listdir(tmp_path) == ["lock"]
    store.put(made(1))
    assert equal(store.get(key_of(1)), made(1))


def head_and_parts(size: int) -> tuple[dict[str, Any], list[Any]]:
    return {"n": size}, [np.full(size, size % 251, np.uint8)]


STEPS = st.lists(st.tuples(st.sampled_from("pppggdtcl"), st.integers(0, 6), st.integers(0, 900)), max_size=40)


@given(STEPS)
@settings(max_examples=60)
def test_a_folder_against_a_dict(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]):
    """Whatever is done, by whichever of two who share it: within the budget, and only what was put last comes back."""
    path = tmp_path_factory.mktemp("folder")
    budget = 3000
    both = [Directory(path, budget, "benefit"), Directory(path, budget, "benefit")]
    put: dict[str, int] = {}
    for number, (action, name, size) in enumerate(steps):
        folder, hexadecimal = both[number % 2], f"{name:040x}"
        if action == "p":
            kept = folder.write(hexadecimal, 1, *head_and_parts(size))
            put[hexadecimal] = size
            assert kept == (folder.head(hexadecimal) is not None)
        elif action == "g":
            found = folder.read(hexadecimal)
            if found is not None:
                size = put[hexadecimal]
                assert found[0] == {"n": size}
                assert found[1].tolist() == [size % 251] * size
        elif action == "d":
            folder.remove(hexadecimal)
            assert folder.read(hexadecimal) is None
        elif action == "t":
            folder.touch(hexadecimal)
        elif action == "c":
            folder.clear()
            assert folder.names() == []
        else:
            (path / "lock").unlink(missing_ok=True)  # whoever comes next makes it anew
        assert sum(file.stat().st_size for file in path.iterdir() if file.name != "lock") <= budget


def test_the_most_useful_stay(tmp_path: Path):
    folder = Directory(tmp_path, 16 * 1100)
    names = [f"{number:040x}" for number in range(40)]
    for number, name in enumerate(names):
        assert folder.write(name, 10, *head_and_parts(900))
        if number == 3:
            for _ in range(20):
                folder.touch(name)
    assert names[3] in folder.names()
    assert names[-1] in folder.names()
    assert names[0] not in folder.names()
    assert not folder.write("f" * 40, 10, *head_and_parts(20_000))  # larger than all of the budget
    assert names[3] in folder.names()


def test_what_a_dead_writer_left_is_swept_away_and_other_files_are_not(tmp_path: Path):
    (tmp_path / "new-abcdefgh").write_bytes(bytes(5000))
    (tmp_path / "README").write_text("mine")
    (tmp_path / ("0" * 40 + ".states")).write_bytes(b"no such thing")
    folder = Directory(tmp_path, 3000)
    assert sorted(os.listdir(tmp_path)) == ["README", "lock"]
    assert folder.write("a" * 40, 1, *head_and_parts(1000))
    (tmp_path / "lock").write_bytes(b"garbage, longer than what belongs there")
    assert folder.nbytes == (tmp_path / ("a" * 40 + ".states")).stat().st_size
    assert folder.write("b" * 40, 1, *head_and_parts(1000))
    assert len(folder.names()) == 2


def test_a_place_that_cannot_be_a_folder_is_an_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot hold a cache"):
        DiskStore(tmp_path / "file")
    with pytest.raises(InputError, match="-5 bytes"):
        DiskStore(tmp_path / "folder", -5)
