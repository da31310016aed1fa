"""HTML, rendered as Markdown so that headings, lists, code and tables survive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from rag.operators.indexing.readers.base import ReaderSettings, reader
from rag.operators.indexing.readers.decode import decode, read_bytes
from rag.types import Document

__all__ = ["html_to_markdown", "read_html"]

_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNSEEN = _words(
    """
    script style noscript template svg iframe object canvas select datalist
    """
)
_AROUND = _words(
    """
    nav footer
    """
)
_BLOCKS = _words(
    """
    address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure form header
    hgroup hr html legend main menu nav ol p section summary table tbody tfoot thead ul footer caption
    """
)
_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_META = {"author": "author", "description": "description", "keywords": "keywords", "date": "date"}
_SPACE = re.compile(r"[ \t\r\n\f]+")


@reader(".html", ".htm", ".xhtml")
def read_html(path: Path, id: str, settings: ReaderSettings) -> Iterator[Document]:
    """One document: the visible text as Markdown, without navigation and footers; of a page with <main>, only that.

    Metadata: `title`, `language`, author, description, keywords, date where given, format "markdown".
    """
    data = read_bytes(path, settings)
    declared = _CHARSET.search(data[:4096])
    encoding = settings.encoding
    if encoding is None and declared and not _is_utf8(data):
        encoding = declared[1].decode("ascii")
    try:
        markup, _ = decode(data, encoding)
    except ValueError:  # a declared encoding that is unknown or wrong
        markup, _ = decode(data, settings.encoding)
    text, metadata = html_to_markdown(markup)
    yield Document(id, text, {**metadata, "format": "markdown"})


def html_to_markdown(markup: str) -> tuple[str, dict[str, Any]]:
    """The visible text of a page as Markdown, and the metadata of its head. Any markup is read, broken or deep too."""
    parser = _Renderer(_AROUND)
    parser.feed(markup)
    parser.close()
    if parser.left_out:  # never closed: what it swallowed may be the whole page
        parser = _Renderer(frozenset())
        parser.feed(markup)
        parser.close()
    return parser.text(), parser.metadata


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


class _Renderer(HTMLParser):
    """Renders while it parses, without building a tree: neither depth nor size of the page matters."""

    def __init__(self, around: frozenset[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.metadata: dict[str, Any] = {}
        self.left_out: list[str] = []  # open elements whose text is not shown, all of one name
        self._around = around
        self._parts: list[str] = []
        self._main: list[str] = []
        self._in_main = 0
        self._in_title = False
        self._title: list[str] = []
        self._in_pre = 0
        self._lists: list[int] = []  # of each open list the number of its last item, -1 where unordered
        self._row: list[list[str]] | None = None
        self._rows = 0
        self._permalink = False

    def text(self) -> str:
        self._end_row()
        parts = self._main if "".join(self._main).strip() else self._parts
        lines = [line.rstrip() for line in "".join(parts).split("\n")]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")

    def parse_html_declaration(self, i: int) -> int:
        try:
            return super().parse_html_declaration(i)
        except AssertionError:  # the parser's answer to "<![word" that it does not know
            return self.parse_bogus_comment(i)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.left_out:
            if tag == self.left_out[0]:
                self.left_out.append(tag)
        elif tag in _UNSEEN or tag in self._around:
            self.left_out.append(tag)
        elif tag == "title":
            self._in_title = not self.metadata.get("title")
        elif tag == "meta":
            self._meta(dict(attrs))
        elif tag == "html":
            if language := dict(attrs).get("lang"):
                self.metadata["language"] = language
        elif tag == "br":
            self._write("\n" if self._row is None else " ")
        elif tag == "a":
            self._permalink = "headerlink" in (dict(attrs).get("class") or "")
        elif tag == "img":
            self._words(dict(attrs).get("alt") or "")
        elif tag in ("td", "th"):
            if self._row is None:  # the row was ended by a table inside it
                self._block(1)
            else:
                self._row.append([])
        elif tag == "tr":
            self._end_row()
            self._row = []
        elif tag in _HEADINGS:
            self._block(2)
            self._write(_HEADINGS[tag] + " ")
        elif tag == "pre":
            self._block(2)
            self._in_pre += 1
            self._write("```\n")
        elif tag == "li":
            self._item()
        elif tag in _BLOCKS:
            self._open_block(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _UNSEEN and tag not in self._around:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self.left_out:
            if tag == self.left_out[0]:
                self.left_out.pop()
        elif tag == "title":
            self._in_title = False
            if title := _SPACE.sub(" ", "".join(self._title)).strip():
                self.metadata["title"] = title
        elif tag == "a":
            self._permalink = False
        elif tag == "tr":
            self._end_row()
        elif tag in _HEADINGS:
            self._block(2)
        elif tag == "pre":
            if self._in_pre:
                self._in_pre -= 1
                self._block(1)
                self._write("```")
                self._block(2)
        elif tag in _BLOCKS:
            self._close_block(tag)

    def handle_data(self, data: str) -> None:
        if self.left_out:
            return
        if self._in_title:
            self._title.append(data)
        elif self._permalink and data.strip() in ("¶", "#", "🔗", "\uf0c1"):
            return
        elif self._in_pre and self._row is None:
            self._write(data)
        else:
            self._words(data)

    def _words(self, data: str) -> None:
        words = _SPACE.sub(" ", data)
        out = self._out()
        if words.startswith(" ") and (not out or out[-1][-1:] in (" ", "\n", "")):
            words = words[1:]
        self._write(words)

    def _out(self) -> list[str]:
        if self._row is not None:
            return self._row[-1] if self._row else []
        return self._main if self._in_main else self._parts

    def _write(self, data: str) -> None:
        if not data:
            return
        if self._row is None:
            self._parts.append(data)
            if self._in_main:
                self._main.append(data)
        elif self._row:
            self._row[-1].append(data)
        elif data.strip():
            self._row.append([data])

    def _block(self, lines: int) -> None:
        """End the line, with `lines` line ends in all behind the last word."""
        if self._row is not None:
            self._write(" ")
            return
        out = self._out()
        ending = "".join(out[-3:]).rstrip(" ")
        there = len(ending) - len(ending.rstrip("\n"))
        if there < lines:
            self._write("\n" * (lines - there))

    def _item(self) -> None:
        self._block(1)
        if self._lists and self._lists[-1] >= 0:
            self._lists[-1] += 1
            mark = f"{self._lists[-1]}. "
        else:
            mark = "- "
        self._write("  " * min(max(len(self._lists) - 1, 0), 8) + mark)

    def _open_block(self, tag: str) -> None:
        if tag in ("ul", "ol"):
            self._block(1 if self._lists else 2)
            self._lists.append(0 if tag == "ol" else -1)
            return
        if tag == "main":
            self._in_main += 1
        if tag == "table":
            self._end_row()
            self._rows = 0
        # A paragraph that opens a list item stays on the line of its mark.
        if not (self._lists and "".join(self._out()[-1:]).endswith((". ", "- "))):
            self._block(1 if self._lists else 2)

    def _close_block(self, tag: str) -> None:
        if tag == "table":
            self._end_row()
        if tag in ("ul", "ol") and self._lists:
            self._lists.pop()
        self._block(1 if self._lists else 2)
        if tag == "main":
            self._in_main = max(self._in_main - 1, 0)

    def _end_row(self) -> None:
        row, self._row = self._row, None
        if not row:
            return
        cells = [_SPACE.sub(" ", "".join(cell)).strip().replace("|", "\\|") for cell in row]
        if not any(cells):
            return
        self._block(1)
        if len(cells) == 1:  # a table of one column is layout
            self._write(cells[0].replace("\\|", "|") + "\n")
            return
        self._write("| " + " | ".join(cells) + " |\n")
        self._rows += 1
        if self._rows == 1:
            self._write("|" + " --- |" * len(cells) + "\n")

    def _meta(self, attrs: dict[str, str | None]) -> None:
        name = (attrs.get("name") or attrs.get("property") or "").lower()
        content = (attrs.get("content") or "").strip()
        if content and (key := _META.get(name)):
            self.metadata.setdefault(key, content)
        elif content and name == "og:title":
            self.metadata.setdefault("title", content)
