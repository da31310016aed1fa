"""What a Markdown text consists of: front matter, headings, fenced code, tables, each with its place in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

__all__ = ["Block", "FrontMatter", "blocks", "front_matter", "title_of"]

_FRONT = re.compile(r"---[ \t]*\r?\n((?:.*\n)*?)(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)")
_FRONT_MOST = 65_536
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}(?!.*`)|~{3,})")
_TABLE_RULE = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")
_NOT_A_HEADING = re.compile(r"[ \t]*(?:[-*+>|]|\d+[.)][ \t]|`{3}|~{3}|$)|\t| {4}")


class FrontMatter(NamedTuple):
    """The YAML between the first two "---" lines, and where the text after them begins."""

    yaml: str
    end: int


class Block(NamedTuple):
    """Characters `start` to `end`: one heading, one whole code fence, one whole table, or one other line."""

    start: int
    end: int
    kind: Literal["heading", "code", "table", "line", "blank"]
    level: int = 0
    """of a heading, 1 to 6"""
    title: str = ""
    """of a heading, without its marks"""


def front_matter(text: str) -> FrontMatter | None:
    """The front matter with which the text begins, if any; at most 64 KiB of it."""
    if not text.startswith("---"):
        return None
    match = _FRONT.match(text, 0, _FRONT_MOST)
    # A rule of dashes with prose under it is no front matter: that has keys.
    if match is None or not re.search(r"^[^\s:#][^:\n]*:(\s|$)", match[1], re.MULTILINE):
        return None
    return FrontMatter(match[1], match.end())


def title_of(text: str) -> str | None:
    """The first heading of level 1, or else the first one at all, among the first 64 KiB."""
    matter = front_matter(text)
    headings = [b for b in blocks(text[:_FRONT_MOST], matter.end if matter else 0) if b.kind == "heading" and b.title]
    return next((b.title for b in headings if b.level == 1), headings[0].title if headings else None)


def blocks(text: str, start: int = 0) -> Iterator[Block]:
    """The blocks from `start` on, in order and without gaps: each begins where the one before ends."""
    lines = _lines(text, start)
    at = 0
    while at < len(lines):
        begin, end = lines[at]
        line = text[begin:end].rstrip("\r\n")
        size = 1
        if not line.strip():
            yield Block(begin, end, "blank")
        elif fence := _FENCE.match(line):
            size = _fenced(text, lines, at, fence[1])
            yield Block(begin, lines[at + size - 1][1], "code")
        elif heading := _ATX.match(line):
            yield Block(begin, end, "heading", len(heading[1]), _plain(heading[2] or ""))
        elif at + 1 < len(lines) and (under := _underline(text, line, lines[at + 1])):
            size = 2
            yield Block(begin, lines[at + 1][1], "heading", under, _plain(line))
        elif "|" in line and at + 1 < len(lines) and _is_rule(text, lines[at + 1]):
            size = 2
            while at + size < len(lines) and "|" in text[slice(*lines[at + size])]:
                size += 1
            yield Block(begin, lines[at + size - 1][1], "table")
        else:
            yield Block(begin, end, "line")
        at += size


def _lines(text: str, start: int) -> list[tuple[int, int]]:
    spans = []
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        spans.append((start, end))
        start = end
    return spans


def _fenced(text: str, lines: list[tuple[int, int]], at: int, mark: str) -> int:
    """How many lines the code fence opening on line `at` takes; an unclosed one runs to the end, as in CommonMark."""
    close = re.compile(rf" {{0,3}}{re.escape(mark[0])}{{{len(mark)},}}[ \t]*\r?\n?$")
    for ahead in range(at + 1, len(lines)):
        if close.match(text, *lines[ahead]):
            return ahead - at + 1
    return len(lines) - at


def _underline(text: str, line: str, below: tuple[int, int]) -> int:
    if _NOT_A_HEADING.match(line):
        return 0
    match = _SETEXT.match(text[slice(*below)].rstrip("\r\n"))
    # A single dash under a line is more often an empty list item or a table than a heading.
    return 0 if match is None or match[1] == "-" else 1 if match[1][0] == "=" else 2


def _is_rule(text: str, span: tuple[int, int]) -> bool:
    line = text[slice(*span)].rstrip("\r\n")
    return "|" in line and "-" in line and _TABLE_RULE.match(line) is not None


def _plain(heading: str) -> str:
    """A heading without emphasis, code marks and link targets."""
    heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[*`]+|\s*\{#[^}]*\}\s*$", "", heading).strip()
