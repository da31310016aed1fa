import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.collection import Collection
from rag.encoders.hashing import HashingEncoder
from rag.errors import ConfigError, NotFoundError
from rag.operators.indexing import AttachMetadata, Markdown, Recursive, Sentences, SmallToBig, embedding_text
from rag.operators.indexing.ingest import index_paths, indexed_texts
from rag.operators.indexing.report import IndexProgress, IndexReport
from rag.operators.indexing.settings import IndexSettings
from rag.types import Document


class Counting(HashingEncoder):
    """Remembers what it encoded; may fail after so many texts."""

    def __init__(self) -> None:
        super().__init__(32)
        self.texts: list[str] = []
        self.fail_after = 10**9

    def encode_documents(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        if len(self.texts) + len(texts) > self.fail_after:
            raise KeyboardInterrupt
        self.texts += texts
        return super().encode_documents(texts, progress=progress)


@pytest.fixture
def encoder() -> Counting:
    return Counting()


@pytest.fixture
def kb(tmp_path: Path, encoder: Counting) -> Iterator[Collection]:
    with Collection.create(tmp_path / "kb", encoder=encoder) as collection:
        yield collection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.md").write_text("# Alpha\n\nThe first text.\n")
    (folder / "b.txt").write_text("The second text is about boats.\n")
    (folder / "sub" / "c.txt").write_text("The third one is about trains.\n")
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({"_id": f"r{i}", "text": f"Record number {i}."}) + "\n" for i in range(5))
    )
    return folder


def write(path: Path, text: str) -> None:
    """Write, with a time that differs from the one before."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    if path.stat().st_mtime_ns == before:
        os.utime(path, ns=(before + 1, before + 1))


def counts(report: IndexReport) -> tuple[int, int, int, int]:
    return report.added, report.changed, report.unchanged, report.deleted


FIRST = ["a.md", "b.txt", *(f"rows.jsonl#r{i}" for i in range(5)), "sub/c.txt"]


def test_a_folder_becomes_documents_chunks_and_vectors(kb: Collection, folder: Path, encoder: Counting) -> None:
    report = index_paths(kb, folder)
    assert counts(report) == (8, 0, 0, 0)
    assert (report.files, report.chunks, report.failures, report.cut) == (4, 8, [], 0)
    assert list(kb.documents()) == FIRST
    assert kb.document("b.txt").text == (folder / "b.txt").read_text()
    assert set(report.seconds) == {"walk", "read", "dedupe", "chunk", "encode", "write"}
    hit = kb.search_dense(encoder.encode_queries(["The second text is about boats."]), 1)[0].chunks()[0]
    assert (hit.document, hit.text) == ("b.txt", "The second text is about boats.")
    assert kb.chunks(kb.chunk_ids("a.md"))[0].metadata["headings"] == ["Alpha"]


def test_what_is_unchanged_is_neither_read_nor_encoded(
    kb: Collection, folder: Path, encoder: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_paths(kb, folder)
    generation, encoded = kb.generation, len(encoder.texts)
    monkeypatch.setattr("rag.operators.indexing.ingest.read", lambda *_: pytest.fail("a file was read"))
    report = index_paths(kb, folder)
    assert counts(report) == (0, 0, 8, 0)
    assert report.files_unchanged == 4
    assert len(encoder.texts) == encoded
    assert kb.generation == generation


def test_changes_are_followed(kb: Collection, folder: Path, encoder: Counting) -> None:
    index_paths(kb, folder)
    encoder.texts.clear()
    write(folder / "b.txt", "The second text is about planes now.\n")
    (folder / "sub" / "c.txt").unlink()
    write(folder / "new.txt", "A new one.")
    write(folder / "a.md", (folder / "a.md").read_text())  # touched only
    report = index_paths(kb, folder)
    assert counts(report) == (1, 1, 6, 1)
    assert encoder.texts == ["The second text is about planes now.", "A new one."]
    assert sorted(kb.documents()) == sorted({*FIRST, "new.txt"} - {"sub/c.txt"})
    assert counts(index_paths(kb, folder)) == (0, 0, 8, 0)
    assert index_paths(kb, folder).files_unchanged == 4


def test_records_are_followed_one_by_one(kb: Collection, folder: Path, encoder: Counting) -> None:
    index_paths(kb, folder)
    encoder.texts.clear()
    rows = [{"_id": f"r{i}", "text": f"Record number {i}."} for i in (0, 1, 3, 4, 5)]
    rows[1]["text"] = "Changed."
    write(folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    report = index_paths(kb, folder)
    assert counts(report) == (1, 1, 6, 1)
    assert sorted(encoder.texts) == ["Changed.", "Record number 5."]
    assert "rows.jsonl#r2" not in kb.documents()
    assert index_paths(kb, folder).files_unchanged == 4
    # Back to the first state by a backup that keeps times: noticed although it was seen before.
    assert counts(index_paths(kb, folder / "rows.jsonl")) == (0, 0, 5, 0)


def test_a_file_that_fails_keeps_its_old_documents(
    kb: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_paths(kb, folder)
    (folder / "b.txt").write_bytes(bytes(range(256)) * 10)
    write(folder / "rows.jsonl", '{"_id": "r0", "text": "New zero."}\nbroken\n')
    for _ in range(2):  # told in every run until it is mended
        report = index_paths(kb, folder)
        assert [(f.path, f.partial) for f in report.failures] == [("b.txt", False), ("rows.jsonl", True)]
        assert sorted(kb.documents()) == sorted(FIRST)
    assert kb.document("b.txt").text == "The second text is about boats.\n"
    assert kb.document("rows.jsonl#r0").text == "New zero."
    # A folder that cannot be listed has not lost its files.
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = index_paths(kb, folder)
    assert "sub: permission denied" in map(str, report.failures)
    assert "sub/c.txt" in kb.documents()


def test_only_what_is_below_the_paths_is_deleted(kb: Collection, folder: Path, tmp_path: Path) -> None:
    index_paths(kb, folder)
    with kb.writer() as writer:  # a document that came from no file
        writer.add([Document("mine", "by hand")], [[]], np.empty((0, 32), np.float32))
        writer.commit()
    (folder / "a.md").unlink()
    (folder / "sub" / "c.txt").unlink()
    assert index_paths(kb, folder / "sub").deleted == 1
    assert "a.md" in kb.documents()
    assert index_paths(kb, folder).deleted == 1
    assert "mine" in kb.documents()


def test_folders_side_by_side(kb: Collection, folder: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "b.txt").write_text("Another b.")
    index_paths(kb, folder)
    assert counts(index_paths(kb, notes)) == (1, 0, 0, 0)
    assert set(kb.documents()) == {*FIRST, "notes//b.txt"}
    assert counts(index_paths(kb, [folder, notes])) == (0, 0, 9, 0)
    (notes / "b.txt").unlink()
    assert index_paths(kb, folder).deleted == 0
    assert index_paths(kb, notes).deleted == 1
    assert set(kb.documents()) == set(FIRST)


def test_a_folder_inside_and_one_around(kb: Collection, folder: Path) -> None:
    index_paths(kb, folder / "sub")
    assert list(kb.documents()) == ["c.txt"]
    report = index_paths(kb, folder)
    assert counts(report) == (7, 0, 1, 0)
    assert index_paths(kb, folder / "sub").files_unchanged == 1
    (folder / "sub" / "c.txt").unlink()
    assert index_paths(kb, folder).deleted == 1


def test_a_folder_that_was_moved_is_the_same(kb: Collection, folder: Path, tmp_path: Path, encoder: Counting) -> None:
    index_paths(kb, folder)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(folder, tmp_path / "elsewhere" / "docs")
    encoder.texts.clear()
    report = index_paths(kb, tmp_path / "elsewhere" / "docs")
    assert counts(report) == (0, 0, 8, 0)
    assert encoder.texts == []


def test_single_files_and_missing_ones(kb: Collection, folder: Path) -> None:
    assert counts(index_paths(kb, [folder / "a.md", str(folder / "b.txt")])) == (2, 0, 0, 0)
    with pytest.raises(NotFoundError, match=r"gone\.txt"):
        index_paths(kb, folder / "gone.txt")


def test_empty_folder_and_empty_files(kb: Collection, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    report = index_paths(kb, tmp_path / "empty")
    assert (report.files, counts(report)) == (0, (0, 0, 0, 0))
    for name in ("a.txt", "b.md", "c.csv", "d.jsonl", "e.html"):
        (tmp_path / "empty" / name).write_text("")
    (tmp_path / "empty" / "space.txt").write_text(" \n ")
    report = index_paths(kb, tmp_path / "empty")
    assert (report.added, report.empty, report.chunks, report.failures, report.duplicates) == (4, 4, 0, [], [])


def test_the_collection_itself_is_not_indexed(tmp_path: Path, encoder: Counting) -> None:
    (tmp_path / "a.txt").write_text("text")
    with Collection.create(tmp_path / "kb", encoder=encoder) as kb:
        for _ in range(2):
            assert index_paths(kb, tmp_path).files == 1


def test_duplicates_are_left_out_and_told(kb: Collection, folder: Path) -> None:
    text = " ".join(f"word{i}" for i in range(60))
    write(folder / "d1.txt", text)
    write(folder / "d2.txt", text + "\n")
    write(folder / "d3.txt", text + " more")
    report = index_paths(kb, folder)
    assert [(d.document, d.of, d.exact) for d in report.duplicates] == [
        ("d2.txt", "d1.txt", True),
        ("d3.txt", "d1.txt", False),
    ]
    assert "d2.txt" not in kb.documents()
    assert "d3.txt" in kb.documents()
    # The next run finds it again; a copy of what was stored before is found too.
    write(folder / "0.txt", text)
    report = index_paths(kb, folder)
    assert [(d.document, d.of) for d in report.duplicates] == [("0.txt", "d1.txt"), ("d2.txt", "d1.txt")]
    # When the original goes, a copy takes its place.
    (folder / "d1.txt").unlink()
    index_paths(kb, folder)
    assert {"0.txt", "d3.txt"} <= kb.documents().keys()
    assert not {"d1.txt", "d2.txt"} & kb.documents().keys()
    # A document that becomes a copy goes.
    write(folder / "b.txt", text)
    index_paths(kb, folder)
    assert "b.txt" not in kb.documents()


def test_records_that_differ_in_other_fields_are_no_duplicates(kb: Collection, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,price\nsame description here,1\nsame description here,2\nsame description here,2\n")
    report = index_paths(kb, path)
    assert report.added == 2
    assert [(d.document, d.of) for d in report.duplicates if d.exact] == [("rows.csv#3", "rows.csv#2")]


@pytest.mark.parametrize("policy", ["report", "keep"])
def test_duplicates_may_be_kept(kb: Collection, folder: Path, policy: str) -> None:
    write(folder / "copy.txt", (folder / "b.txt").read_text())
    settings = IndexSettings.model_validate({"dedupe": {"exact": policy, "near": "keep"}})
    report = index_paths(kb, folder, settings=settings)
    assert "copy.txt" in kb.documents()
    assert len(report.duplicates) == (policy == "report")


def test_settings_stay_in_force_and_other_ones_index_anew(kb: Collection, folder: Path, encoder: Counting) -> None:
    settings = IndexSettings(chunker=Sentences(size=8, overlap=0) >> SmallToBig() >> AttachMetadata(constants={"x": 1}))
    index_paths(kb, folder, settings=settings)
    chunk = kb.chunks(kb.chunk_ids("b.txt"))[0]
    assert chunk.parent is not None
    assert chunk.metadata["x"] == 1
    assert IndexSettings.model_validate(kb.settings["indexing"]) == settings
    assert index_paths(kb, folder).files_unchanged == 4
    report = index_paths(kb, folder, settings=IndexSettings(chunker=Recursive(size=50)))
    assert counts(report) == (0, 8, 0, 0)
    assert index_paths(kb, folder).files_unchanged == 4


def test_a_chunker_must_make_chunks() -> None:
    with pytest.raises(ConfigError, match="small_to_big cannot stand here"):
        IndexSettings(chunker=SmallToBig())


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"ReaderSettings: setting 'max_bytes' is -1: .*greater than or equal to 1"):
        IndexSettings.model_validate({"reader": {"max_bytes": -1}})
    with pytest.raises(ConfigError, match=r"unknown setting 'treshold' \(did you mean 'threshold'\?\)"):
        IndexSettings.model_validate({"dedupe": {"treshold": 0.5}})
    with pytest.raises(ConfigError, match="'nonsense' .*is no operator"):
        IndexSettings(chunker="nonsense")  # type: ignore[arg-type]


def test_title_and_headings_are_encoded_but_not_stored(kb: Collection, tmp_path: Path, encoder: Counting) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"_id": "1", "title": "A Title", "text": "The text."}\n')
    index_paths(kb, path)
    assert encoder.texts == ["A Title\nThe text."]
    assert kb.chunks(kb.chunk_ids())[0].text == "The text."
    document = kb.document("rows.jsonl#1")
    assert encoder.texts == [embedding_text(document, kb.chunks(kb.chunk_ids())[0])]
    index_paths(kb, path, settings=IndexSettings(embed_title=False))
    assert encoder.texts[-1] == "The text."


def test_chunks_that_the_encoder_cuts_are_counted(tmp_path: Path) -> None:
    class Short(Counting):
        max_tokens = 20  # type: ignore[assignment]

    path = tmp_path / "a.txt"
    path.write_text("word " * 100)
    with Collection.create(tmp_path / "kb", encoder=Short()) as kb:
        report = index_paths(kb, path, settings=IndexSettings(chunker=Recursive(size=30, overlap=0)))
        assert report.cut == report.chunks - (report.chunks > 3)


def test_progress(kb: Collection, folder: Path) -> None:
    seen: list[IndexProgress] = []
    index_paths(kb, folder, progress=seen.append)
    assert seen[-1] == IndexProgress(files=4, total_files=4, documents=8, chunks=8, current="")
    assert [p.current for p in seen if p.current] == ["a.md", "b.txt", "rows.jsonl", "sub/c.txt"]
    assert all(a.files <= b.files and a.chunks <= b.chunks for a, b in itertools.pairwise(seen))


def many(folder: Path, files: int = 20, records: int = 30) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(files):
        (folder / f"{i:03}.txt").write_text(f"File number {i} says hello to reader {i * 7}.")
    lines = (
        json.dumps({"_id": str(i), "text": f"Record {i} of many, about subject {i * 13}."}) for i in range(records)
    )
    (folder / "000-rows.jsonl").write_text("\n".join(lines))


def test_an_interrupted_run_goes_on_where_it_was(kb: Collection, tmp_path: Path, encoder: Counting) -> None:
    many(tmp_path / "many")
    keep: dict[str, Any] = {"settings": IndexSettings.model_validate({"dedupe": {"near": "keep"}})}
    for stop in (12, 27, 33, 45):
        encoder.fail_after = stop
        with pytest.raises(KeyboardInterrupt):
            index_paths(kb, tmp_path / "many", batch=3, commit_every=6, **keep)
        kb.refresh()
        assert stop - 9 < len(kb.documents()) <= stop
        encoder.texts = encoder.texts[: len(kb.documents())]
    encoder.fail_after = 10**9
    report = index_paths(kb, tmp_path / "many", batch=3, commit_every=6)
    assert report.added + report.unchanged == 50
    assert len(kb.documents()) == len(kb) == 50
    assert index_paths(kb, tmp_path / "many").files_unchanged == 21


SCRIPT = """
    import sys
    from rag.collection import Collection
    from rag.encoders.hashing import HashingEncoder
    from rag.operators.indexing.ingest import index_paths

    with Collection.open(sys.argv[1], encoder=HashingEncoder(32)) as kb:
        index_paths(kb, sys.argv[2], batch=4, commit_every=8, progress=lambda p: print(p.documents, flush=True))
"""


def test_a_killed_run_leaves_a_collection_that_the_next_completes(tmp_path: Path, encoder: Counting) -> None:
    many(tmp_path / "many", files=60, records=60)
    Collection.create(tmp_path / "kb", encoder=encoder).close()
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "kb"), str(tmp_path / "many")],
            stdout=subprocess.PIPE,
        )
        with process:
            assert process.stdout is not None
            stop = held + rng.integers(10, 25)
            while (line := process.stdout.readline()) and int(line) < stop:
                pass
            time.sleep(float(rng.uniform(0, 0.02)))
            process.send_signal(signal.SIGKILL)
        with Collection.open(tmp_path / "kb", encoder=encoder) as kb:
            assert held <= len(kb.documents()) <= 120  # a kill can come just before a commit, or too late
            held = len(kb.documents())
    assert held > 0
    with Collection.open(tmp_path / "kb", encoder=encoder) as kb:
        report = index_paths(kb, tmp_path / "many")
        assert report.added + report.unchanged == 120
        assert len(kb.documents()) == 120


@pytest.mark.slow
def test_a_text_of_50_megabytes(kb: Collection, tmp_path: Path, encoder: Counting) -> None:
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"word{i}" for i in range(5000)])
    path = tmp_path / "big.txt"
    with path.open("w") as file:
        while file.tell() < 50_000_000:
            lines = vocabulary[rng.integers(0, 5000, (2000, 12))]
            file.write("".join(" ".join(line) + ".\n" + "\n" * (i % 5 == 0) for i, line in enumerate(lines)))
    settings = IndexSettings.model_validate({"dedupe": {"near": "keep"}})
    encoder.encode_documents = lambda texts, progress=None: np.ones((len(texts), 32), np.float32)  # type: ignore[method-assign,assignment,misc]
    encoder.count_tokens = lambda texts: [len(text.split()) for text in texts]  # type: ignore[method-assign]
    report = index_paths(kb, path, settings=settings)
    assert report.added == 1
    assert report.chunks > 20_000
    last = kb.chunks(kb.chunk_ids()[-1:])[0]
    assert last.text.strip().endswith(path.read_text()[-40:].strip())


def test_words_of_titles_and_headings_are_found_and_survive_a_repair(tmp_path: Path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text(
        "# Zymurgy\n\nYeast turns sugar into alcohol.\n\n## Bottles\n\nGlass is best.\n", encoding="utf-8"
    )
    (folder / "b.md").write_text("# Other\n\nNothing of the kind.\n", encoding="utf-8")
    with Collection.create(tmp_path / "kb", encoder="hashing:64") as kb:
        index_paths(kb, folder, settings=IndexSettings(chunker=Markdown(size=8)))
        before = [hits.ids.tolist() for hits in kb.search_lexical(["zymurgy glass", "zymurgy"], 10)]
        assert len(before[1]) > 1
        assert "Glass" in kb.search_lexical(["zymurgy glass"], 1)[0].chunks()[0].text
    for kind in ("postings", "vectors"):
        path = next((tmp_path / "kb" / "segments").glob(f"*.{kind}"))
        path.write_bytes(path.read_bytes()[:-7])
        with Collection.open(tmp_path / "kb", repair=True) as kb:
            assert kb.rebuild(texts=indexed_texts(kb)).ok
            assert [hits.ids.tolist() for hits in kb.search_lexical(["zymurgy glass", "zymurgy"], 10)] == before
