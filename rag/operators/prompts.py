"""Prompt files: Markdown with a system part, a line of three hyphens, and the user's part.

Placeholders are names in braces, such as `{passages}` and `{question}`; each operator says which ones its prompts have.
Any other text in braces stays as it is, unless it looks like a placeholder. Nothing is evaluated: a placeholder is
replaced by its text once, and what it stands for is not looked at again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rag.errors import ConfigError, NotFoundError, did_you_mean
from rag.kvcache.segments import Segment

__all__ = ["Prompt", "load_prompt"]

_PACKAGED = Path(__file__).parent / "generation" / "prompts"
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")
_NAME = re.compile(r"\w[\w.-]*\Z")


@dataclass(frozen=True)
class Prompt:
    """The two parts of a prompt; `system` may be empty."""

    system: str
    user: str

    def fill(self, values: Mapping[str, str]) -> Prompt:
        """The prompt with its placeholders replaced."""

        def put(text: str) -> str:
            return _PLACEHOLDER.sub(lambda match: values[match[1]], text)

        return Prompt(put(self.system), put(self.user))

    def segments(self, values: Mapping[str, str], passages: Sequence[Segment]) -> tuple[list[Segment], list[Segment]]:
        """The two parts as segments of text, with `passages` in the place of {passages}.

        Joined they are what `fill` makes. A text with {question} in it is a question, any other one instructions. Blank
        lines behind a chunk belong to it.
        """
        return _segments(self.system, values, passages), _segments(self.user, values, passages)


def _segments(text: str, values: Mapping[str, str], passages: Sequence[Segment]) -> list[Segment]:
    found: list[Segment] = []
    plain: list[str] = []
    asks = False

    def close() -> None:
        here = "".join(plain)
        if found and found[-1].kind == "chunk":
            rest = here.lstrip("\n")
            found[-1] = Segment("chunk", found[-1].text + here[: len(here) - len(rest)])
            here = rest
        if here:
            found.append(Segment("question" if asks else "instructions", here))
        plain.clear()

    at = 0
    for match in _PLACEHOLDER.finditer(text):
        plain.append(text[at : match.start()])
        at = match.end()
        if match[1] == "passages":
            close()
            asks = False
            found += passages
        else:
            plain.append(values[match[1]])
            asks = asks or match[1] == "question"
    plain.append(text[at:])
    close()
    return found


def load_prompt(
    name: str,
    folder: str | None = None,
    *,
    packaged: Path = _PACKAGED,
    placeholders: tuple[str, ...] = ("passages", "question"),
    optional: tuple[str, ...] = ("not_found",),
) -> Prompt:
    """The prompt NAME.md from `folder`, from the folder in RAG_PROMPTS, or from `packaged`, the first that has it.

    It must have all `placeholders`, and may have the `optional` ones.

    Raises ConfigError for a name that is none or a file with wrong placeholders, NotFoundError where there is no such
    prompt.
    """
    if not _NAME.match(name):
        raise ConfigError(f"{name!r} is no name of a prompt", hint="letters, digits, '-', '_' and '.', no path")
    folders = [Path(f) for f in (folder, os.environ.get("RAG_PROMPTS")) if f]
    for place in (*folders, packaged):
        file = place / f"{name}.md"
        try:
            inside = file.resolve().is_relative_to(place.resolve())
            changed = file.stat().st_mtime_ns if inside else 0
        except OSError:
            continue
        if not inside:
            raise ConfigError(f"prompt {name!r} is a link that leads out of {place}", hint="put the file itself there")
        return _read(file, changed, placeholders, optional)
    known = {f.stem for place in (*folders, packaged) for f in place.glob("*.md")}
    raise NotFoundError(f"there is no prompt {name!r}", hint=did_you_mean(name, known))


@lru_cache(64)
def _read(file: Path, changed: int, placeholders: tuple[str, ...], optional: tuple[str, ...]) -> Prompt:
    """The prompt in a file, read again when the file has changed."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompt {file} is not UTF-8: {error.reason} at byte {error.start}") from None
    found = set(_PLACEHOLDER.findall(text))
    known = (*placeholders, *optional)
    for name in sorted(found - set(known)):
        raise ConfigError(f"prompt {file} has an unknown placeholder {{{name}}}", hint=did_you_mean(name, known))
    for name in placeholders:
        if name not in found:
            raise ConfigError(f"prompt {file} has no placeholder {{{name}}}", hint="without it the model cannot answer")
    system, line, user = text.partition("\n---\n")
    return Prompt(system.strip(), user.strip()) if line else Prompt("", text.strip())
