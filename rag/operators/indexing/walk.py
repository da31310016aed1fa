"""Which files of a folder are read."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from rag.operators.indexing.options import Options
from rag.operators.indexing.readers import reader_for

__all__ = ["Skipped", "SourceFile", "Unreadable", "WalkSettings", "walk"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SKIPPED_FOLDERS = _words(
    """
    __pycache__ node_modules bower_components CVS _darcs .git .hg .svn
    """
)
_NO_TEXT = _words(
    """
    7z a aac ai avi avif bin bmp bz2 class dat db deb dll dmg dylib eot exe faiss flac gguf gif gz h5 heic ico iso
    jar jpeg jpg ko lib lz4 m4a m4v mkv mo mov mp3 mp4 npy npz o obj ogg onnx otf parquet pb pickle pkl png psd pt
    pth pyc pyd pyo rar rpm safetensors so sqlite svg swf tar tgz tif tiff ttf wasm wav webm webp whl woff woff2 xz
    zip zst
    """
)


class WalkSettings(Options):
    """Which files below a folder are taken.

    Patterns are as in .gitignore: "*.md" and "drafts" fit a name at any depth, "docs/*.md" and "/drafts" a path from
    the folder on, "**" any number of folders, "drafts/" a folder only.
    """

    include: tuple[str, ...] = Field((), description="patterns of the files to take; all when there are none")
    exclude: tuple[str, ...] = Field((), description="patterns of files and folders to leave out")
    hidden: bool = Field(False, description="whether to take files and folders whose names begin with a dot")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read, and what tells later whether it changed."""

    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that cannot be read, or a folder that cannot be listed."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that holds no text by its suffix, such as an image."""

    suffix: str


def walk(
    root: Path, settings: WalkSettings | None = None, leave_out: Sequence[Path] = ()
) -> Iterator[SourceFile | Unreadable | Skipped]:
    """The files below a folder, or the one file `root`, in the order of their names.

    Left out: hidden files, folders of version control, virtual environments and caches, the folders `leave_out`, and
    by suffix (told as `Skipped`) formats without text. Links to folders are not followed, links to files only where
    they stay inside; one that leaves the folder or leads nowhere is `Unreadable`, as is a folder that cannot be listed.
    """
    settings = settings or WalkSettings()
    if not root.is_dir():
        yield _file(root)
        return
    real = root.resolve()
    outside = {path.resolve() for path in leave_out}
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield Unreadable(folder, (error.strerror or str(error)).lower())
            continue
        deeper = []
        for entry in entries:
            path = Path(entry.path)
            relative = path.relative_to(root).as_posix()
            if entry.name.startswith(".") and not settings.hidden:
                continue
            if entry.is_dir(follow_symlinks=False):
                skipped = entry.name in _SKIPPED_FOLDERS or (path / "pyvenv.cfg").is_file()
                if not skipped and path.resolve() not in outside and not _fits(settings.exclude, relative, True):
                    deeper.append(path)
                continue
            if _fits(settings.exclude, relative, False):
                continue
            if settings.include and not _fits(settings.include, relative, False):
                continue
            if entry.is_symlink():
                problem = _bad_link(path, real)
                if problem:
                    yield Unreadable(path, problem)
                    continue
                if path.is_dir():  # inside the folder, where it is walked under its own name
                    continue
            if reader_for(path) is None and path.suffix.lower()[1:] in _NO_TEXT:
                yield Skipped(path.suffix.lower())
            else:
                yield _file(path)
        folders += reversed(deeper)


def _file(path: Path) -> SourceFile | Unreadable:
    try:
        status = path.stat()
    except OSError as error:
        return Unreadable(path, (error.strerror or str(error)).lower())
    if not stat.S_ISREG(status.st_mode):
        return Unreadable(path, "not a regular file")
    return SourceFile(path, status.st_size, status.st_mtime_ns)


def _bad_link(path: Path, root: Path) -> str | None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # nowhere, or in a circle
        return "broken link"
    return None if target.is_relative_to(root) else "link that leaves the indexed folder"


def _fits(patterns: Sequence[str], relative: str, is_folder: bool) -> bool:
    return any(_compiled(pattern).match(relative + "/" * is_folder) for pattern in patterns)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    folder_only = pattern.endswith("/")
    body = pattern.strip("/")
    anchored = "/" in pattern.rstrip("/")
    out = "" if anchored else "(?:.*/)?"
    at = 0
    while at < len(body):
        if body.startswith("**/", at):
            out += "(?:.*/)?"
            at += 3
        elif body.startswith("**", at):
            out += ".*"
            at += 2
        else:
            char = body[at]
            out += {"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char))
            at += 1
    # A pattern that fits a folder fits all below it; the trailing slash marks what is a folder.
    return re.compile(out + ("/.*" if folder_only else "(?:/.*)?") + r"\Z", re.DOTALL)
