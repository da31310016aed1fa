"""Which document ids belong to which folder, when a collection holds several.

Ids are paths relative to an indexed folder. Those of the first folder stand as they are; those of a further folder
`notes` begin with "notes//", which no path does. Folders and prefixes are kept in the collection's settings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

from rag.operators.indexing.readers.base import document_id

__all__ = ["Roots"]

_MARK = "//"


class Roots:
    """The indexed folders of a collection by the prefix of their documents' ids."""

    def __init__(self, stored: Mapping[str, str]) -> None:
        self._folders = {prefix: Path(folder) for prefix, folder in stored.items()}

    def stored(self) -> dict[str, str]:
        """What to keep in the settings: folder by prefix."""
        return {prefix: folder.as_posix() for prefix, folder in self._folders.items()}

    def enter(self, folder: Path) -> None:
        """Make a folder known unless it, or one above it, is; one of the same name that has gone was moved to here."""
        if any(folder.is_relative_to(known) for known in self._folders.values()):
            return
        for prefix, known in self._folders.items():
            if known.name == folder.name and not known.exists():
                self._folders[prefix] = folder
                return
        name = document_id(folder, folder.parent) if folder.name else "root"
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        prefix = next(n + _MARK for n in names if n + _MARK not in self._folders) if self._folders else ""
        self._folders[prefix] = folder

    def id_of(self, path: Path) -> str:
        """The document id of a file, relative to the innermost known folder that holds it."""
        prefix = max(
            (p for p, folder in self._folders.items() if path.is_relative_to(folder)),
            key=lambda p: len(self._folders[p].parts),
        )
        return prefix + document_id(path, self._folders[prefix])

    def below(self, path: Path, files: Iterable[str]) -> list[str]:
        """Those of the file ids whose file is at `path` or below it."""
        places = [(self._path_of(file), file) for file in files]
        return [file for place, file in places if place is not None and place.is_relative_to(path)]

    def _path_of(self, file: str) -> Path | None:
        head, mark, rest = file.partition(_MARK)
        prefix = head + mark if mark else ""
        if prefix not in self._folders:
            return None
        relative = (rest if mark else head).replace("%23", "#").replace("%25", "%")
        return self._folders[prefix] / relative
