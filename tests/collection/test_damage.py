"""Damaged files are named, never answered from; what can be remade is."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from rag.collection import Collection
from rag.errors import CollectionError, DamagedFileError, NotFoundError, RagError
from rag.types import Chunk
from tests.collection.samples import ENCODER, check, chunked, document, edit_manifest, filled, put

STATE = {f"doc{i}": document(f"doc{i}", sentences=30) for i in range(10)}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of two segments, one with deleted chunks; never opened by a test."""
    path = tmp_path_factory.mktemp("damage") / "kb"
    with filled(path, [*STATE.values(), document("gone")]) as collection, collection.writer() as writer:
        put(writer, [STATE["doc3"]])
        writer.delete(["gone"])
        writer.commit()
        assert collection.verify().ok
    return path


@pytest.fixture
def kb(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "kb"))


def the(kb: Path, kind: str) -> Path:
    return sorted((kb / "segments").glob(f"*.{kind}"))[0]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def zero(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2 + 8] = bytes(len(content) // 2 + 8 - len(content) // 3)
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [flip, zero, truncate, lengthen, empty, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["vectors", "postings", "deleted"])
def test_a_damaged_index_is_named_and_rebuilt(kb: Path, kind: str, damage: Callable[[Path], None]) -> None:
    path = the(kb, kind)
    damage(path)
    with pytest.raises(DamagedFileError, match=path.name) as error:
        Collection.open(kb)
    assert "rebuil" in str(error.value) or "repair" in str(error.value)
    with Collection.open(kb, repair=True) as collection:
        report = collection.verify()
        assert not report.ok
        assert path.name in " ".join(report.problems)
        with pytest.raises(DamagedFileError):
            collection.search_lexical(["common"], 1)
        assert collection.rebuild().ok
        check(collection, STATE)
    with Collection.open(kb) as collection:
        check(collection, STATE)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_named_and_restored(kb: Path, damage: Callable[[Path], None]) -> None:
    path = kb / "manifest.json"
    damage(path)
    with pytest.raises((DamagedFileError, NotFoundError), match=r"manifest\.json"):
        Collection.open(kb)
    if not path.exists():
        with pytest.raises(DamagedFileError, match="repair"):
            Collection.create(kb, encoder=ENCODER)
    with Collection.open(kb, repair=True) as collection:
        assert not collection.verify().ok
        assert collection.rebuild().ok
    with Collection.open(kb) as collection:
        check(collection, STATE)


def test_a_wrong_number_in_the_manifest_is_noticed(kb: Path) -> None:
    path = kb / "manifest.json"
    path.write_text(path.read_text().replace('"generation": 2', '"generation": 1'))
    with pytest.raises(DamagedFileError, match="checksum"):
        Collection.open(kb)


@pytest.mark.parametrize("seed", range(25))
def test_a_damaged_database_is_never_answered_from(kb: Path, seed: int) -> None:
    path = kb / "collection.sqlite"
    rng = random.Random(seed)
    content = bytearray(path.read_bytes())
    begin = rng.randrange(len(content))
    for at in range(begin, min(begin + rng.choice([1, 1, 8, 600]), len(content))):
        content[at] ^= rng.randrange(1, 256)
    path.write_bytes(content)

    def problems() -> list[str]:
        found = []
        try:
            with Collection.open(kb) as collection:
                for use in (lambda: check(collection, STATE), lambda: collection.select("number == 2")):
                    try:
                        use()
                    except DamagedFileError as error:
                        found.append(str(error))
                # Bytes that no answer depends on (free space, old rows) may be damaged without harm.
                assert not found or not collection.verify().ok
        except DamagedFileError as error:
            found.append(str(error))
        return found

    assert all("collection.sqlite" in problem for problem in problems())


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [halve, empty, Path.unlink])
def test_a_database_that_is_cut_off(kb: Path, damage: Callable[[Path], None]) -> None:
    path = kb / "collection.sqlite"
    damage(path)
    with pytest.raises(DamagedFileError, match=r"collection\.sqlite"), Collection.open(kb) as collection:
        check(collection, STATE)
    with Collection.open(kb, repair=True) as collection:
        assert not collection.verify().ok


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE documents SET metadata = replace(metadata, 'version', 'veersion') WHERE id = 'doc2'",
        "UPDATE documents SET id = 'doc99' WHERE id = 'doc2'",
        "UPDATE documents SET died = 1 WHERE id = 'doc2'",
        "UPDATE documents SET died = NULL WHERE id = 'gone'",
        "UPDATE chunks SET stop = stop - 1 WHERE id = 5",
        "UPDATE chunks SET metadata = NULL WHERE id = 5",
        "DELETE FROM chunks WHERE id = 5",
        "DELETE FROM blocks WHERE id = 1",
        "UPDATE blocks SET line = line + 1 WHERE id = 1",
        "UPDATE blocks SET text = cast('X' || substr(cast(text AS TEXT), 2) AS BLOB) WHERE id = 1",
        "DROP TABLE chunks",
    ],
)
def test_a_changed_row_is_noticed(kb: Path, statement: str) -> None:
    db = sqlite3.connect(kb / "collection.sqlite")
    assert db.execute(statement).rowcount != 0
    db.commit()
    db.close()

    def use() -> None:
        with Collection.open(kb) as collection:
            collection.select("number == 1")
            check(collection, STATE)
            collection.lines([("doc0", len(STATE["doc0"].text))])

    with pytest.raises(DamagedFileError, match=r"collection\.sqlite"):
        use()
    with Collection.open(kb, repair=True) as collection:
        assert not collection.verify().ok


def test_parts_of_different_collections_do_not_mix(kb: Path, tmp_path: Path) -> None:
    filled(tmp_path / "other", [document("a")]).close()
    shutil.copy(tmp_path / "other" / "collection.sqlite", kb / "collection.sqlite")
    with pytest.raises(DamagedFileError, match="another collection"):
        Collection.open(kb)


def test_a_database_from_an_older_backup_is_noticed(kb: Path, tmp_path: Path) -> None:
    shutil.copytree(kb, tmp_path / "backup")
    with Collection.open(kb) as collection, collection.writer() as writer:
        put(writer, [document("new")])
        writer.commit()
    shutil.copy(tmp_path / "backup" / "collection.sqlite", kb / "collection.sqlite")
    with pytest.raises(DamagedFileError, match=r"older backup"):
        Collection.open(kb)


def test_segments_that_are_swapped_are_noticed(kb: Path) -> None:
    paths = sorted((kb / "segments").glob("*.vectors"))
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="vectors"):
        Collection.open(kb)
    with Collection.open(kb, repair=True) as collection:
        assert collection.rebuild().ok
        check(collection, STATE)


def test_lost_vectors_are_remade_only_from_what_was_encoded(tmp_path: Path) -> None:
    def titled(chunks: Sequence[Chunk]) -> list[str]:
        return [f"A title: {chunk.text}" for chunk in chunks]

    with Collection.create(tmp_path / "kb", encoder=ENCODER) as collection, collection.writer() as writer:
        for whole in STATE.values():
            own = chunked(whole)
            writer.add([whole], [own], ENCODER.encode_documents(titled(own)))
            if len(collection) < 100:
                writer.commit()
        writer.commit()
        before = collection.vectors(collection.chunk_ids())
    the(tmp_path / "kb", "vectors").unlink()
    with Collection.open(tmp_path / "kb", repair=True) as collection:
        with pytest.raises(CollectionError, match="pass texts="):
            collection.rebuild()
        assert collection.rebuild(texts=titled).ok
        assert np.allclose(collection.vectors(collection.chunk_ids()), before, atol=1e-6)


def test_repair_of_a_sound_collection_changes_nothing(kb: Path) -> None:
    before = (kb / "manifest.json").read_bytes()
    with Collection.open(kb, repair=True) as collection:
        assert collection.rebuild().ok
    assert (kb / "manifest.json").read_bytes() == before


def test_a_manifest_cannot_lead_out_of_its_folder(kb: Path) -> None:
    edit_manifest(kb, lambda content: content["segments"][0]["vectors"].update(name="segments/../../secret"))
    with pytest.raises(DamagedFileError, match="is not a manifest"):
        Collection.open(kb)


def test_every_error_here_says_what_to_do(kb: Path) -> None:
    the(kb, "vectors").unlink()
    for attempt in (lambda: Collection.open(kb), lambda: Collection.open(kb / "nothing")):
        with pytest.raises(RagError) as error:
            attempt()
        assert error.value.hint
    assert issubclass(DamagedFileError, CollectionError)
