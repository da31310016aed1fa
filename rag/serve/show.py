"""How results look on a terminal and as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from rag.collection import TokenMatch
from rag.pipelines.events import Span
from rag.serve.matches import print_matches
from rag.types import Answer, Chunk, Citation, Hits, State

if TYPE_CHECKING:
    from rag.operators.post_retrieval.relevance_filter import Filtering

__all__ = [
    "Progress",
    "as_json",
    "print_answer",
    "print_citations",
    "print_filtering",
    "print_hits",
    "print_json",
    "print_trace",
    "stderr",
    "stdout",
    "where",
]


def stdout() -> Console:
    """The console for results."""
    return Console(highlight=False, soft_wrap=False)


def stderr() -> Console:
    """The console for progress and remarks."""
    return Console(stderr=True, highlight=False)


class Progress:
    """A progress bar on standard error, called with what is done, and how much of how much; silent when that is no
    terminal."""

    def __init__(self) -> None:
        from rich import progress

        console = stderr()
        self._bar = progress.Progress(
            progress.BarColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("[dim]{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=what, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def print_json(value: Any) -> None:
    """Write a value as one JSON document to standard output."""
    json.dump(as_json(value), sys.stdout, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    sys.stdout.write("\n")


_INNER = ("vector", "tokens", "logprobs")
"""Fields that are for operators, not for readers: long, and told by the text itself."""


def as_json(value: Any) -> Any:
    """A value of ours as what JSON can hold. Hits become a list of chunks with their scores."""
    if isinstance(value, Hits):
        return hits_as_json(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name not in _INNER}
    if isinstance(value, State | Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def hits_as_json(hits: Hits) -> list[dict[str, Any]]:
    """Each hit with its score, place and text."""
    chunks = hits.chunks() if hits.store is not None else [None] * len(hits)
    rows = []
    for rank, (score, chunk) in enumerate(zip(hits.scores.tolist(), chunks, strict=True)):
        row: dict[str, Any] = {"rank": rank + 1, "id": int(hits.ids[rank]), "score": score}
        row |= {name: as_json(values[rank]) for name, values in hits.columns.items()}
        if chunk is not None:
            row |= {"document": chunk.document, "start": chunk.start, "end": chunk.end}
            row |= {"text": chunk.text, "metadata": as_json(chunk.metadata)}
        rows.append(row)
    return rows


def print_hits(
    hits: Hits, query: str, lines: Mapping[int, int], matches: Sequence[Sequence[TokenMatch]] | None = None
) -> None:
    """Ranked chunks with score, place and the beginning of their text; words of the query stand out.

    With `matches` those words of a chunk stand out that matched a token of the query best, and a line tells which.
    """
    console = stdout()
    if not len(hits):
        console.print("[yellow]nothing found[/]")
        return
    width = max(console.width - 6, 40)
    for rank, (score, chunk) in enumerate(zip(hits.scores.tolist(), hits.chunks(), strict=True), 1):
        place = escape(where(chunk.document, lines.get(chunk.id)))
        console.print(f"[bold]{rank:>3}[/]  [cyan]{place}[/]  [dim]{score:.4f}[/]{_headings(chunk)}")
        if matches is not None:
            print_matches(console, chunk.text, query, matches[rank - 1], width)
            continue
        text = Text(" ".join(chunk.text.split())[: 3 * width])
        text.highlight_words([w for w in query.split() if len(w) > 2], "bold yellow", case_sensitive=False)
        for line in text.wrap(console, width)[:3]:
            console.print(Text("     ") + line)


def print_answer(answer: Answer) -> None:
    """The answer's text, yellow when the documents hold none, then its citations."""
    console = stdout()
    console.print(Text(answer.text.strip(), style="bold" if answer.found else "yellow"))
    print_citations(answer)


def print_citations(answer: Answer) -> None:
    """Every cited place with the words that stand there."""
    console = stdout()
    for citation in answer.citations:
        quote = " ".join(citation.quote.split())
        console.print(f"[dim]\\[{citation.number}][/] [cyan]{escape(_place(citation))}[/]  [dim]“{escape(quote)}”[/]")
    if answer.usage.calls:
        used = answer.usage
        cached = f" ({used.cached_tokens} from a cache)" if used.cached_tokens else ""
        console.print(f"[dim]{used.prompt_tokens} tokens read{cached}, {used.completion_tokens} written[/]")


def print_filtering(route: str, filtering: Filtering) -> None:
    """Which way a relevance filter sent a question, and why."""
    style = "dim" if route == "relevant" else "yellow"
    stdout().print(Text(f"{route}: {filtering.why()}", style=style))


def print_trace(spans: Sequence[Span]) -> None:
    """How a run went, as a tree on standard error."""
    from rag.serve.trace import trace_tree

    console = stderr()
    console.print(trace_tree(spans, console.width))


def where(document: str, line: int | None) -> str:
    """A place as editors understand it."""
    return f"{document}:{line}" if line else document


def _place(citation: Citation) -> str:
    return where(citation.document, citation.line)


def _headings(chunk: Chunk) -> str:
    headings = chunk.metadata.get("headings")
    text = " › ".join(map(str, headings)) if isinstance(headings, list | tuple) else headings
    return f"  [dim]{escape(str(text))}[/]" if text else ""
