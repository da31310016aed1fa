"""From the bytes of a file to its text."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from rag.errors import InputError
from rag.operators.indexing.readers.base import ReaderSettings

__all__ = ["decode", "read_bytes", "read_decoded"]

_SAMPLE = 65_536
# UTF-32 before UTF-16: the little-endian mark of the one begins with that of the other.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Controls that text files hold: tab, line ends, form feed, backspace and escape (terminal logs), Ctrl-Z (old DOS).
_CONTROL = re.compile(rb"[\x00-\x07\x0b\x0e-\x19\x1c-\x1f\x7f]")


def read_bytes(path: Path, settings: ReaderSettings) -> bytes:
    """The whole file; InputError when it is larger than the settings allow."""
    with path.open("rb") as file:
        data = file.read(settings.max_bytes + 1)
    if len(data) > settings.max_bytes:
        raise InputError(f"larger than max_bytes = {settings.max_bytes:,}")
    return data


def read_decoded(path: Path, settings: ReaderSettings) -> tuple[str, str]:
    """The text of a file and the name of its encoding."""
    return decode(read_bytes(path, settings), settings.encoding)


def decode(data: bytes, encoding: str | None = None) -> tuple[str, str]:
    """Text and encoding of some bytes: as told, by byte order mark, UTF-8, UTF-16 by its zeros, then by statistics.

    Every character is kept, line ends too; only a byte order mark is no part of the text. InputError for binary data.
    """
    if encoding:
        try:
            return data.decode(encoding), encoding
        except LookupError:
            raise InputError(f"unknown encoding {encoding!r}") from None
        except UnicodeDecodeError as error:
            raise InputError(f"not {encoding} at byte {error.start}") from None
    for mark, name in _MARKS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(name), name
            except UnicodeDecodeError as error:
                raise InputError(f"marked as {name} but not so at byte {error.start}") from None
    sample = data[:_SAMPLE]
    if 0 in sample:
        name = _utf16_by_zeros(sample)
        try:
            return data.decode(name), name
        except UnicodeDecodeError:
            raise InputError("binary, not text") from None
    if len(_CONTROL.findall(sample)) > len(sample) // 50:
        raise InputError("binary, not text")
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        return _by_statistics(data, error.start)


def _utf16_by_zeros(sample: bytes) -> str:
    """Text mostly below U+0100 in UTF-16 has a zero in every other byte; zeros elsewhere mean binary."""
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if odd > half * 0.4 and even < half * 0.02:
        return "utf-16-le"
    if even > half * 0.4 and odd < half * 0.02:
        return "utf-16-be"
    raise InputError("binary, not text")


def _by_statistics(data: bytes, first: int) -> tuple[str, str]:
    from charset_normalizer import from_bytes

    # The bytes around the first one that is not UTF-8: the text before it may be plain ASCII for megabytes.
    around = data[max(0, first - _SAMPLE // 2) : first + _SAMPLE // 2]
    # A handful of accents is too little for statistics, and cp1252 is what most such files are.
    name: str | None = "cp1252"
    if sum(byte > 127 for byte in around) >= 16:
        guess = from_bytes(around).best()
        name = guess.encoding if guess else None
    if name is None:
        raise InputError("binary, or text in an unknown encoding")
    try:
        return data.decode(name), name
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"
