"""A text that a language model is writing, released piece by piece with its citations checked."""

from __future__ import annotations

import re

from rag.operators.generation.citations import MARKER, Checker, numbers_in
from rag.operators.indexing import sentences
from rag.types import Citation

__all__ = ["CheckedText"]

_OPEN = re.compile(r"\s*\[[^\[\]\n]{0,200}\Z")


class CheckedText:
    """Feeds on pieces of text, hands out what may be shown, and collects the citations that hold.

    A citation belongs to the sentence it stands in, or to the one before when it opens a sentence. Words are released
    as they come; from a citation on they wait for the end of the sentence, where the citation is checked. A number that
    is not supported is taken out, or with `mark` becomes "[1?]". Brackets within `code` are no citations.
    """

    def __init__(self, checker: Checker, *, mark: bool) -> None:
        self.citations: list[Citation] = []
        self.claims = 0
        self.supported = 0
        self._checker = checker
        self._mark = mark
        self._waiting = ""  # not yet released
        self._sentence = ""  # what was released of the sentence that is going on
        self._code = False

    def feed(self, piece: str) -> str:
        """Take in a piece; returns what can be shown now."""
        self._waiting += piece
        shown = ""
        while (end := self._sentence_end()) is not None:
            shown += self._close(end)
        # The last line break or space decides with the next word whether a sentence ended, so it waits.
        hold = MARKER.search(self._waiting)
        upto = hold.start() if hold else len(self._waiting)
        while upto and (self._waiting[upto - 1].isspace()):
            upto -= 1
        half = _OPEN.search(self._waiting[:upto])
        if half:
            upto = half.start()
        released, self._waiting = self._waiting[:upto], self._waiting[upto:]
        self._sentence += released
        return shown + released

    def finish(self) -> str:
        """What remains to be shown when the text is complete."""
        shown = ""
        while (end := self._sentence_end(complete=True)) is not None:
            shown += self._close(end)
        return shown + self._close(len(self._sentence) + len(self._waiting))

    def _sentence_end(self, *, complete: bool = False) -> int | None:
        """How many characters, released and waiting, belong to the sentence that is going on, if it surely ended.

        While the text is not complete, the first word of the next sentence must be: it decides whether it is one.
        """
        text = self._sentence + self._waiting
        spans = sentences(text)
        if len(spans) < 2:
            return None
        # A sentence that is nothing but citations belongs to this one; until more follows, one cannot know.
        first = 1
        while first < len(spans) and not MARKER.sub("", text[slice(*spans[first])]).strip(" .;,"):
            first += 1
        if first == len(spans):
            return None
        begin = spans[first][0]
        lead = MARKER.match(text, begin)
        while lead:
            begin = lead.end()
            while begin < len(text) and text[begin].isspace():
                begin += 1
            lead = MARKER.match(text, begin)
        if begin >= len(text) or not (complete or re.match(r"[^\s\[]+\s", text[begin:])):
            return None
        return begin

    def _close(self, end: int) -> str:
        """Check the citations of the sentence that has `end` characters, and release what waits of it."""
        text, released_before = self._sentence + self._waiting, len(self._sentence)
        whole = text[:end]
        self._sentence, self._waiting = text[end:released_before], text[max(end, released_before) :]
        markers = [m for m in MARKER.finditer(whole) if m.start() >= released_before]
        markers = [m for m in markers if (whole.count("`", 0, m.start()) + self._code) % 2 == 0]
        claim = MARKER.sub(" ", whole)
        held: dict[int, Citation] = {}
        for number in dict.fromkeys(n for m in markers for n in numbers_in(m[0])):
            citation = self._checker.find(claim, number)
            if citation is not None:
                held[number] = citation
        self.citations += [c for c in held.values() if c not in self.citations]
        if any(c.isalnum() for c in claim):
            self.claims += 1
            self.supported += bool(held)
        released = ""
        at = min(released_before, end)
        for marker in markers:
            released += whole[at : marker.start()]
            shown = self._shown(numbers_in(marker[0]), held)
            released = released + shown if shown else released.rstrip(" ")
            at = marker.end()
        self._code = (whole.count("`") + self._code) % 2 == 1
        return released + whole[at:]

    def _shown(self, numbers: list[int], held: dict[int, Citation]) -> str:
        kept = [str(n) if n in held else f"{n}?" for n in numbers if n in held or self._mark]
        return f"[{', '.join(kept)}]" if kept else ""
