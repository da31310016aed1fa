"""Checks of the texts handed to an encoder."""

from __future__ import annotations

from collections.abc import Sequence

from rag.errors import InputError

__all__ = ["check_texts"]


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list; InputError when they are one string, or one is no str or no valid Unicode."""
    if isinstance(texts, str):
        raise InputError(f"expected a list of texts, got the string {texts[:40]!r}", hint="put it into a list: [text]")
    checked = list(texts)
    for i, text in enumerate(checked):
        if not isinstance(text, str):
            raise InputError(f"text {i} is a {type(text).__name__}, expected str")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(f"text {i} is no valid Unicode: {error}") from None
    return checked
