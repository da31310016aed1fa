"""Readers: from a file to documents. `read` picks the reader by suffix; `@reader(".xyz")` adds one."""

# Each module registers its readers when it is imported; the libraries that they need are imported when a file is read.
from rag.operators.indexing.readers import docx, html, notebook, pdf, plain, records, tables  # noqa: F401
from rag.operators.indexing.readers.base import (
    Reader,
    ReaderSettings,
    ReadFailure,
    document_id,
    read,
    reader,
    reader_for,
    suffixes,
)

__all__ = ["ReadFailure", "Reader", "ReaderSettings", "document_id", "read", "reader", "reader_for", "suffixes"]
