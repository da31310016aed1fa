"""Where sentences end: rules on punctuation, abbreviations, initials, numbers and what comes next."""

from __future__ import annotations

import re

__all__ = ["sentence_breaks", "sentences"]

# A run of marks, closing quotes or brackets, white space. It matches wherever a mark stands, so that a search never
# goes back, and a million dots take linear time; what it found is judged afterwards.
_CANDIDATE = re.compile(r"([.!?…؟۔।॥։።。！？｡]+)[\"'”’»)\]}*_」』）】〕》]*(\s*)")
_WIDE = "。！？｡"  # stops of scripts that set no space behind them
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n\s*")
_OPENERS = "\"'“‘«„‚([{*_¿¡-–—#>"
_TOKEN = re.compile(r"[^\s\"'“”‘’«»(){}\[\]—–/*_]*\Z")
_ACRONYM = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]?\Z")
_LIST_NUMBER = re.compile(r"(?:\d{1,3}|[a-zA-Z]|[ivxlcIVXLC]{1,6})\Z")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BEFORE_NAME = _words(
    """
    mr mrs ms mx dr drs prof profs rev hon st ste mt ft gen col lt maj capt cpt cmdr sgt adm brig messrs mme mlle sr
    sra srta fr hr pres gov sen rep supt insp vs v cf viz ca approx resp e.g i.e eg ie z.b d.h u.a bzw bspw vgl p.ex
    op ed eds trans geb
    """
)
_BEFORE_NUMBER = _words(
    """
    no nos nr nrn num fig figs abb eq eqs sec secs sect ch chap chaps vol vols p pp art arts ref refs tab ex app par
    para pt ver ser bd rn nn § abs
    """
)
_MAY_END = _words(
    """
    etc al inc ltd co corp bros dept univ assn jr sr esq ph.d phd a.m p.m am pm est min max avg jan feb mar apr jun
    jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun rd ave blvd usw ff n.b
    """
)
_STARTERS = _words(
    """
    The A An This That These Those It Its He She They We I You His Her Their Our My In On At As But And Or If When
    While After Before For From With There Here However Although Though Since Because Both Some Many Most All No Not
    One To By During Under What Who Which How Why Where Then Thus Today Each Every Such Other Another Also Despite
    Over
    """
)


def sentences(text: str) -> list[tuple[int, int]]:
    """The sentences of a text as spans (start, end) without the white space around them, in order.

    A blank line always ends a sentence, a single line break never does. The rules know English best; they hold for
    other languages with the same marks, and for the full stops of Chinese, Japanese, Hindi, Arabic and Armenian.
    """
    spans = []
    start = 0
    for end in (*sentence_breaks(text), len(text)):
        piece = text[start:end]
        if inner := piece.strip():
            begin = start + len(piece) - len(piece.lstrip())
            spans.append((begin, begin + len(inner)))
        start = end
    return spans


def sentence_breaks(text: str, start: int = 0, end: int | None = None) -> list[int]:
    """Where in text[start:end] a new sentence begins, except at `start`: after the white space behind the last one."""
    end = len(text) if end is None else end
    found = {match.end() for match in _BLANK_LINE.finditer(text, start, end)}
    found.update(match.end() for match in _CANDIDATE.finditer(text, start, end) if _ends(text, start, end, match))
    found.discard(end)
    return sorted(found)


def _ends(text: str, start: int, end: int, match: re.Match[str]) -> bool:
    mark = match[1]
    if not match[2] and mark[-1] not in _WIDE:
        return False
    ahead = text[match.end() : min(end, match.end() + 24)].lstrip(_OPENERS)
    if ahead[:1].islower() or ahead[:1] in (",", ";", ":", ")"):
        return False
    if mark != ".":
        return True
    at = match.start()
    found = _TOKEN.search(text[max(start, at - 24) : at])
    token = found[0] if found else ""
    word = token.lower()
    if word in _BEFORE_NAME:
        return False
    if word in _BEFORE_NUMBER and (ahead[:1].isdigit() or _roman(ahead)):
        return False
    if _LIST_NUMBER.match(token) and _opens_line(text, start, at - len(token)):
        return False
    if word == "etc":
        return True
    initial = len(token) == 1 and token.isalpha() and token.isupper()
    if initial or word in _MAY_END or _ACRONYM.match(token):
        first = re.match(r"[^\W\d_]+", ahead)
        return first is not None and first[0] in _STARTERS
    return True


def _opens_line(text: str, start: int, at: int) -> bool:
    line = text.rfind("\n", start, at) + 1 or start
    return not text[line:at].strip(" \t*_-#>(")


def _roman(ahead: str) -> bool:
    return re.match(r"[IVXLC]+\b", ahead) is not None and not ahead.startswith("I ")
