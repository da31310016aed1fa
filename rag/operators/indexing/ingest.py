"""From folders to a collection: read what changed, chunk it, encode it, commit it batch by batch."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.collection import Collection, Fingerprint, Writer
from rag.encoders import TokenVectors, encode_both
from rag.errors import NotFoundError
from rag.operators.indexing.attach_metadata import embedding_text
from rag.operators.indexing.duplicates import Duplicate, DuplicateFinder
from rag.operators.indexing.readers import ReadFailure, read
from rag.operators.indexing.report import IndexProgress, IndexReport
from rag.operators.indexing.roots import Roots
from rag.operators.indexing.settings import IndexSettings, chunk
from rag.operators.indexing.walk import SourceFile, Unreadable, walk
from rag.types import Chunk, Document

__all__ = ["IndexProgress", "IndexReport", "index_paths", "indexed_texts"]

_INCOMPLETE = -1
"""The file time noted with the documents of a file of which more are to come. The last one gets the true time, so that
a run that was cut off in the middle of a file is known to have been."""


def index_paths(
    collection: Collection,
    paths: str | Path | Iterable[str | Path],
    *,
    settings: IndexSettings | None = None,
    progress: Callable[[IndexProgress], None] | None = None,
    batch: int = 256,
    commit_every: int = 2048,
) -> IndexReport:
    """Bring the documents of files and folders into a collection, which afterwards holds what they now hold.

    A file whose size and time are as they were is not read; one whose content is the same is not encoded again;
    documents whose file, row or line has gone are deleted. A file that cannot be read any more keeps its old documents.
    No failure of a file stops the run: it is told in the report, in every run until it is mended.

    `settings` default to those of the last run, kept in the collection; other settings make all files be read again.
    `batch` is how many chunks at least go to the encoder at once, `commit_every` after how many a commit is made: an
    interrupted run loses what came after its last commit, and the next one goes on from there. Reading and chunking
    are not done beside the encoding, since they take a few percent of its time.

    Raises NotFoundError for a path that does not exist, LockedError when another process writes, and what the encoder
    raises; the collection then holds the last commit.
    """
    roots_given = _existing([paths] if isinstance(paths, str | Path) else paths)

    def told(what: str, done: int, total: int) -> None:
        run.tell(f"{what}: {done:,} of {total:,} vectors")

    with collection.writer(progress=told) as writer:
        collection.refresh()
        run = _Run(collection, writer, settings, progress, batch, commit_every)
        run.index(roots_given)
    collection.refresh()
    return run.report


def indexed_texts(collection: Collection) -> Callable[[Sequence[Chunk]], list[str]]:
    """What `index_paths` indexed for stored chunks of this collection: hand it to `Collection.rebuild`."""
    settings = IndexSettings.model_validate(collection.settings.get("indexing", {}))

    def texts(chunks: Sequence[Chunk]) -> list[str]:
        return [embedding_text(Document(c.document, "", c.metadata), c, title=settings.embed_title) for c in chunks]

    return texts


class _Run:
    """One run of `index_paths`."""

    def __init__(
        self,
        collection: Collection,
        writer: Writer,
        settings: IndexSettings | None,
        progress: Callable[[IndexProgress], None] | None,
        batch: int,
        commit_every: int,
    ) -> None:
        self.report = IndexReport()
        self._collection = collection
        self._writer = writer
        self._encoder = collection.encoder
        self._token_encoder = None if writer.base.manifest.tokens is None else collection.token_encoder
        self._settings = settings or IndexSettings.model_validate(writer.settings.get("indexing", {}))
        self._version = self._settings.fingerprint()
        self._roots = Roots(writer.settings.get("roots", {}))
        self._progress = progress
        self._batch, self._commit_every = batch, commit_every
        self._stored = collection.documents()
        self._files = _by_file(self._stored)
        self._settled: set[str] = set()  # stored documents that stay as they are, as far as is known
        self._finder: DuplicateFinder | None = None
        self._queue: list[tuple[Document, list[Chunk], Fingerprint]] = []
        self._queued_chunks = 0
        self._uncommitted = 0
        self._touched: dict[str, Fingerprint] = {}
        self._documents_done = 0
        self._files_done = 0

    def index(self, paths: list[Path]) -> None:
        with self._timed("walk"):
            found, unseen = self._walk(paths)
        self.report.files = len(found)
        for name in unseen:
            self._delete(self._files[name])
        pending = []
        for name, file in found.items():
            if self._is_unchanged(name, file):
                self.report.files_unchanged += 1
                self.report.unchanged += len(self._files[name])
                self._settled.update(self._files[name])
            else:
                pending.append((name, file))
        stay = set(self._stored).difference(*(self._files.get(name, ()) for name, _ in pending))
        self._settled |= stay.difference(*(self._files[name] for name in unseen))
        self._files_done = self.report.files_unchanged
        for name, file in pending:
            self.tell(name)
            self._index_file(name, file)
            self._files_done += 1
        self._flush()
        self._writer.settings["indexing"] = self._settings.model_dump(mode="json", exclude_defaults=True)
        self._writer.settings["roots"] = self._roots.stored()
        with self._timed("write"):
            self._writer.commit()
        self.tell("")

    def _walk(self, paths: list[Path]) -> tuple[dict[str, SourceFile], list[str]]:
        """The files by id, and the ids of stored files below these paths that are there no more."""
        found: dict[str, SourceFile] = {}
        gone: set[str] = set()
        for path in paths:
            self._roots.enter(path if path.is_dir() else path.parent)
            unreadable = []
            for item in walk(path, self._settings.walk, leave_out=[self._collection.path]):
                if isinstance(item, SourceFile):
                    found[self._roots.id_of(item.path)] = item
                elif isinstance(item, Unreadable):
                    self.report.failures.append(ReadFailure(self._roots.id_of(item.path), item.reason))
                    unreadable.append(item.path)
                else:
                    self.report.skipped[item.suffix] += 1
            below = self._roots.below(path, self._files)
            kept = {file for where in unreadable for file in self._roots.below(where, below)}
            gone.update(set(below) - kept)
        # Roots are kept at once: the ids of the first batch depend on them.
        self._writer.settings["roots"] = self._roots.stored()
        return found, sorted(gone - found.keys())

    def _is_unchanged(self, name: str, file: SourceFile) -> bool:
        """Whether a complete reading of the file as it is, under the same settings, is stored."""
        prints = [self._stored[document] for document in self._files.get(name, ())]
        times = {p.mtime_ns for p in prints}
        return (
            file.mtime_ns in times
            and times <= {file.mtime_ns, _INCOMPLETE}
            and all(p.size == file.size and p.digest.startswith(self._version) for p in prints)
        )

    def _index_file(self, name: str, file: SourceFile) -> None:
        held: Document | None = None  # the last one that is kept, until it is known whether more follow
        seen: set[str] = set()
        failed = False
        for item in self._read(name, file):
            if isinstance(item, ReadFailure):
                self.report.failures.append(item)
                failed = True
                continue
            seen.add(item.id)
            if self._is_skipped_duplicate(item):
                if item.id in self._stored:
                    self._delete([item.id])
                continue
            if held is not None:
                self._take(held, Fingerprint(self._digest(held), _INCOMPLETE, file.size))
            held = item
        if not failed:
            self._delete([document for document in self._files.get(name, ()) if document not in seen])
        if held is not None:
            time_ns = _INCOMPLETE if failed else file.mtime_ns
            self._take(held, Fingerprint(self._digest(held), time_ns, file.size))

    def _read(self, name: str, file: SourceFile) -> Iterator[Document | ReadFailure]:
        items = read(file.path, file.path.parent, self._settings.reader, name)
        while True:
            with self._timed("read"):
                item = next(items, None)
            if item is None:
                return
            yield item

    def _take(self, document: Document, source: Fingerprint) -> None:
        """Store a document, unless its content is stored already."""
        stored = self._stored.get(document.id)
        self._documents_done += 1
        if stored is not None and stored.digest == source.digest:
            self.report.unchanged += 1
            if stored != source:
                self._touched[document.id] = source
            return
        with self._timed("chunk"):
            chunks = chunk(self._settings.chunker, document, self._encoder)
        if stored is None:
            self.report.added += 1
        else:
            self.report.changed += 1
        self.report.empty += not document.text.strip()
        self._queue.append((document, chunks, source))
        self._queued_chunks += len(chunks)
        if self._queued_chunks >= self._batch or len(self._queue) >= self._commit_every:
            self._flush()

    def _flush(self) -> None:
        """Encode and write what is queued; commit when it is time."""
        if self._queue:
            documents, chunks, sources = (list(column) for column in zip(*self._queue, strict=True))
            title = self._settings.embed_title
            texts = [embedding_text(d, c, title=title) for d, own in zip(documents, chunks, strict=True) for c in own]
            with self._timed("encode"):
                vectors, tokens = self._encode(texts)
            with self._timed("write"):
                self._writer.add(documents, chunks, vectors, tokens=tokens, sources=sources, texts=texts)
            self._uncommitted += max(self._queued_chunks, len(self._queue))
            self._queue, self._queued_chunks = [], 0
        with self._timed("write"):
            if self._touched:
                self._writer.touch(self._touched)
                self._uncommitted += len(self._touched)
                self._touched = {}
            if self._uncommitted >= self._commit_every:
                self._writer.commit()
                self._uncommitted = 0

    def _encode(self, texts: list[str]) -> tuple[NDArray[np.float32], TokenVectors | None]:
        if not texts:
            return np.empty((0, self._encoder.dim), np.float32), None
        # Two special tokens frame a text in the usual tokenizers.
        self.report.cut += sum(n > self._encoder.max_tokens - 2 for n in self._encoder.count_tokens(texts))

        def count(done: int) -> None:
            self.report.chunks += done
            self.tell("")

        before = self.report.chunks
        encoded = encode_both(self._encoder, self._token_encoder, texts, progress=count)
        self.report.chunks = before + len(texts)
        return encoded

    def _is_skipped_duplicate(self, document: Document) -> bool:
        policy = self._settings.dedupe
        if policy.exact == policy.near == "keep" or not document.text.strip():
            return False
        stored = self._stored.get(document.id)
        same = stored is not None and stored.digest == self._digest(document)
        if same and self._finder is None:
            self._settled.add(document.id)
            return False
        with self._timed("dedupe"):
            if self._finder is None:
                self._finder = DuplicateFinder(policy)
                for earlier in self._stored:
                    if earlier in self._settled:
                        self._compare(self._collection.document(earlier))
            found = self._compare(document)
        if found is None:
            return False
        skip = (policy.exact if found.exact else policy.near) == "skip"
        if not same or skip:
            self.report.duplicates.append(found)
        return skip

    def _compare(self, document: Document) -> Duplicate | None:
        assert self._finder is not None
        # Rows and records may share a text and differ in all else.
        about = (
            json.dumps(dict(document.metadata), sort_keys=True) if document.metadata.get("format") == "record" else ""
        )
        return self._finder.add(document.id, document.text, about) if document.text.strip() else None

    def _delete(self, ids: list[str]) -> None:
        if ids:
            with self._timed("write"):
                self.report.deleted += self._writer.delete(ids)
            self._uncommitted += len(ids)

    def _digest(self, document: Document) -> str:
        """Of all that decides the stored document, its chunks and vectors."""
        digest = hashlib.sha256(document.text.encode())
        digest.update(json.dumps(dict(document.metadata), sort_keys=True).encode())
        return f"{self._version}{digest.hexdigest()}"

    def tell(self, current: str) -> None:
        if self._progress is not None:
            self._progress(
                IndexProgress(self._files_done, self.report.files, self._documents_done, self.report.chunks, current)
            )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.report.seconds[stage] += time.perf_counter() - start


def _existing(paths: Iterable[str | Path]) -> list[Path]:
    """The paths made absolute, without those below others, so that each file is met once."""
    absolute = []
    for path in paths:
        if not Path(path).exists():
            raise NotFoundError(f"there is no file or folder {str(path)!r}", hint="check the path")
        absolute.append(Path(path).resolve())
    return [p for p in dict.fromkeys(absolute) if not any(p != other and p.is_relative_to(other) for other in absolute)]


def _by_file(stored: Mapping[str, Fingerprint]) -> dict[str, list[str]]:
    """Document ids by the id of their file; documents that were not read from files have a time of 0 and stay out."""
    files: dict[str, list[str]] = {}
    for document, source in stored.items():
        if source.mtime_ns != 0:
            files.setdefault(document.partition("#")[0], []).append(document)
    return files
