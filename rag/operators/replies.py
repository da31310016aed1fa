"""What the reply of a language model says: its first line, its lines as items, yes or no, one of several names.

Nothing here raises for a bad reply: what cannot be read is None, an empty text or an empty list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

__all__ = ["first_line", "items", "one_of", "yes_or_no"]

_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^\s*```[\w-]*\s*$", re.MULTILINE)
_BULLET = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,3}[.):]|\(?[a-zA-Z]\))\s+")
_LABEL = re.compile(
    r"^(?:(?:sub|step|re)[- ]?)?(?:\w+ ){0,2}(?:query|question|answer|output|result|filter|step)\s*\d{0,3}\s*:\s+",
    re.IGNORECASE,
)
_YES_NO = re.compile(
    r"^\W*(?:(?:the )?(?:answer|verdict|judgement|judgment)\s*(?:is|:)\W*)?(yes|no)\b(?!\W*(?:or|and)?\W*(?:yes|no)\b)",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "„": "“", "‘": "’", "«": "»", "*": "*"}


def first_line(reply: str) -> str:
    """The first line that holds a letter or digit, without label ("Query:"), list mark and quotes; "" if none does."""
    return next(iter(_lines(reply)), "")


def items(reply: str) -> list[str]:
    """The lines of a reply, or the strings of a JSON list, without list marks, labels and quotes, each once.

    Lines that end in a colon announce a list and are left out. Case does not make two lines different.
    """
    found: dict[str, str] = {}
    for line in _json_list(reply) or _lines(reply):
        if not line.endswith(":"):
            found.setdefault(line.casefold(), line)
    return list(found.values())


def yes_or_no(reply: str) -> bool | None:
    """True or False when the reply begins with yes or no (behind a label such as "Answer:" at most), else None."""
    found = _YES_NO.match(_plain(reply))
    return None if found is None else found[1].casefold() == "yes"


def one_of(reply: str, names: Iterable[str]) -> str | None:
    """The one name that the reply consists of, or else the only one that occurs in its first line; None otherwise."""
    line = first_line(reply)
    names = list(names)
    for name in names:
        if line.rstrip(".!").casefold() == name.casefold():
            return name
    there = [n for n in names if re.search(rf"(?<![\w-]){re.escape(n)}(?![\w-])", line, re.IGNORECASE)]
    return there[0] if len(there) == 1 else None


def _plain(reply: str) -> str:
    return _FENCE.sub("", _THINKING.sub("", reply)).strip()


def _lines(reply: str) -> list[str]:
    cleaned = (_clean(line) for line in _plain(reply).splitlines())
    return [line for line in cleaned if any(c.isalnum() for c in line)]


def _clean(line: str) -> str:
    return _unquoted(_LABEL.sub("", _unquoted(_BULLET.sub("", line.replace("**", "")))))


def _unquoted(text: str) -> str:
    """Without the quotes around all of it; quotes that only a part stands in are left."""
    text = text.strip()
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def _json_list(reply: str) -> list[str]:
    plain = _plain(reply)
    if not plain.startswith("["):
        return []
    try:
        values = json.loads(plain)
    except (ValueError, RecursionError):
        return []
    return [v.strip() for v in values if isinstance(v, str) and v.strip()] if isinstance(values, list) else []
