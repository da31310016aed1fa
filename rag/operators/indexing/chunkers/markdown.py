"""Chunks of Markdown that know which section they are in."""

from __future__ import annotations

from typing import Any

from rag.encoders.protocol import Encoder
from rag.operators.indexing.chunkers.packing import FORCED, PARAGRAPH, Chunker, cut, make_chunks
from rag.operators.indexing.chunkers.recursive import prose_breaks
from rag.operators.indexing.chunkers.tokens import token_counter
from rag.operators.indexing.markdown_structure import blocks, front_matter
from rag.types import Chunk, Document

__all__ = ["Markdown"]


class Markdown(Chunker, name="indexing.markdown"):
    """Cut at headings, then as `Recursive` does; code fences and tables stay whole where they fit.

    A chunk lies in one section; its metadata `headings` lists the headings above it, outermost first. A heading with
    nothing under it goes with the section that follows. YAML front matter is left out.
    """

    def run(self, document: Document, encoder: Encoder | None = None) -> list[Chunk]:
        text = document.text
        matter = front_matter(text)
        start = matter.end if matter else 0
        breaks: list[tuple[int, int]] = []
        paths: list[list[str]] = [[]]  # of each section
        above: list[tuple[int, str]] = []
        prose: int | None = None  # where the present run of ordinary lines began
        filled = False  # whether the section has more than headings; its first content is not cut off from them
        for block in blocks(text, start):
            if block.kind == "blank" or (block.kind == "line" and prose is not None):
                continue
            if prose is not None:
                breaks += prose_breaks(text, prose, block.start)
                prose = None
            if block.kind == "heading":
                if filled:
                    breaks.append((block.start, FORCED))
                    paths.append([])
                above = [h for h in above if h[0] < block.level] + [(block.level, block.title)]
                paths[-1] = [title for _, title in above if title]
                filled = False
                continue
            if filled:
                breaks.append((block.start, PARAGRAPH))
            if block.kind == "line":
                prose = block.start
            filled = True
        if prose is not None:
            breaks += prose_breaks(text, prose, len(text))
        pieces = cut(text, start, breaks, self.size, token_counter(encoder))
        return make_chunks(document, pieces, self.size, self.overlap_tokens, lambda section: _headings(paths[section]))


def _headings(path: list[str]) -> dict[str, Any]:
    return {"headings": path} if path else {}
