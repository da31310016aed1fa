"""PDF, page by page."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag.errors import InputError, MissingExtraError
from rag.operators.indexing.readers.base import ReaderSettings, ReadFailure, reader
from rag.operators.indexing.readers.decode import read_bytes
from rag.types import Document

__all__ = ["read_pdf"]


@reader(".pdf")
def read_pdf(path: Path, id: str, settings: ReaderSettings) -> Iterator[Document | ReadFailure]:
    """One document: the text of all pages with a blank line between two.

    Metadata: `pages`, the offset at which each page begins; `title`, `author`, `subject` and `keywords` where given;
    format "pdf". A page that cannot be read is a failure of its own and empty in the document.
    """
    try:
        import pypdf
        from pypdf.errors import DependencyError, PyPdfError
    except ImportError:
        raise MissingExtraError("reading PDF", "readers") from None
    import io

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every flaw that it can repair
    data = read_bytes(path, settings)
    if b"%PDF-" not in data[:1024]:
        raise InputError("damaged: no PDF header")
    try:
        pdf = pypdf.PdfReader(io.BytesIO(data))
        if pdf.is_encrypted and not pdf.decrypt(""):
            raise InputError("encrypted: it opens with a password only")
        count = len(pdf.pages)
        metadata = _information(pdf)
    except DependencyError:
        raise InputError("encrypted with AES: reading it needs the package cryptography") from None
    except PyPdfError as error:
        raise InputError(f"damaged: {error}") from None
    pages: list[int] = []
    parts: list[str] = []
    at = 0
    for number in range(count):
        try:
            text = pdf.pages[number].extract_text()
        except Exception as error:  # noqa: BLE001  pypdf raises anything on a damaged page; the other pages are fine
            yield ReadFailure(id, f"page {number + 1}: damaged: {type(error).__name__}: {error}"[:300], True)
            text = ""
        pages.append(at)
        parts.append(text)
        at += len(text) + 2
    if not any(part.strip() for part in parts):
        raise InputError("no text on its pages: scanned pages need OCR first" if count else "damaged: it has no pages")
    yield Document(id, "\n\n".join(parts), {**metadata, "format": "pdf", "pages": pages})


def _information(pdf: Any) -> dict[str, Any]:
    try:
        info = pdf.metadata or {}
        found = {name: info.get("/" + name.capitalize()) for name in ("title", "author", "subject", "keywords")}
    except Exception:  # noqa: BLE001  what is said about a PDF may be damaged while its pages are not
        return {}
    return {name: str(value).strip() for name, value in found.items() if value and str(value).strip()}
