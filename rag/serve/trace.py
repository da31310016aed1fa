"""How a run went, as a tree on a terminal: every node with what it wrote and decided, its time and its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.table import Table
from rich.text import Text

from rag.pipelines.events import Span

__all__ = ["trace_tree"]

_BAR = 16
"""Cells that stand for the whole time of the run."""
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def trace_tree(spans: Sequence[Span], width: int = 120) -> Table:
    """The spans of one observed run as a table that is a tree: node, what happened, tokens, time, and when it was.

    Rounds of a loop and branches are nodes of their own. A node that waited for nothing and did nothing else than hold
    others together shows their time.
    """
    wide = width >= 100
    table = Table(box=None, header_style="dim", padding=(0, 1), pad_edge=False)
    table.add_column("node", no_wrap=True, overflow="ellipsis", max_width=max(width * 2 // 5, 24))
    table.add_column("")
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    if wide:
        table.add_column("", width=_BAR, no_wrap=True)
    begin = min((span.start for span in spans), default=0.0)
    length = max((span.start + span.seconds for span in spans), default=0.0) - begin
    failed_inside = {span.parent for span in spans if span.error}
    for guide, span in _rows(spans):
        if isinstance(span, int):
            table.add_row(Text.assemble((guide, "dim"), (f"round {span}", "italic")))
            continue
        cells = [_name(guide, span), _told(span, span.number not in failed_inside), _tokens(span), _time(span)]
        table.add_row(*cells, *([_bar(span.start - begin, span.seconds, length)] if wide else []))
    return table


def _rows(spans: Sequence[Span]) -> Iterator[tuple[str, Span | int]]:
    """Spans as they are nested, each with the lines that lead to it; a number begins the round of a loop."""
    inside: dict[int | None, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.number):
        inside.setdefault(span.parent, []).append(span)

    def below(parts: list[Span], lead: str) -> Iterator[tuple[str, Span | int]]:
        rounds = [(number, list(group)) for number, group in groupby(parts, key=lambda span: span.round)]
        if len(rounds) == 1 and rounds[0][0] <= 1:
            yield from listed(parts, lead)
            return
        for i, (number, group) in enumerate(rounds):
            last = i == len(rounds) - 1
            if number:
                yield lead + ("╰─ " if last else "├─ "), number
                yield from listed(group, lead + ("   " if last else "│  "))
            else:
                yield from listed(group, lead, more=not last)

    def listed(parts: list[Span], lead: str, more: bool = False) -> Iterator[tuple[str, Span | int]]:
        for i, span in enumerate(parts):
            last = i == len(parts) - 1 and not more
            yield lead + ("╰─ " if last else "├─ "), span
            yield from below(inside.get(span.number, []), lead + ("   " if last else "│  "))

    for root in inside.get(None, []):
        yield "", root
        yield from below(inside.get(root.number, []), "")


def _name(guide: str, span: Span) -> Text:
    style = "red" if span.error else "bold" if span.kind in ("operator", "pipeline") else "cyan"
    items = f" ×{span.items}" if span.items > 1 else ""
    return Text.assemble((guide, "dim"), (span.node, style), (items, "dim"))


def _told(span: Span, deepest: bool) -> Text:
    """What a node wrote, decided, remembered, and why it failed, in full where the failure began."""
    if span.error and deepest:
        return Text(span.error, "red")
    parts = [Text.assemble((f"{channel} ", "dim"), what) for channel, what in span.wrote.items()]
    if span.note:
        parts.append(Text(" ".join(span.note.split()), "yellow" if "failed" in span.note else "cyan"))
    if span.remembered:
        of = f" {span.remembered} of {span.items}" if span.items > 1 else ""
        parts.append(Text(f"remembered{of}", "green"))
    if span.error:
        parts.append(Text("failed", "red"))
    told = Text("  ").join(parts)
    told.no_wrap, told.overflow = True, "ellipsis"
    return told


def _tokens(span: Span) -> Text:
    used = span.usage
    if not used.calls:
        return Text("")
    calls = f"{used.calls}× " if used.calls > 1 else ""
    cached = f" ({used.cached_tokens} cached)" if used.cached_tokens else ""
    text = f"{calls}{used.prompt_tokens}{cached}→{used.completion_tokens}"
    return Text(text, "" if span.kind == "operator" else "dim")


def _time(span: Span) -> Text:
    return Text(_duration(span.seconds), "" if span.kind == "operator" else "dim")


def _duration(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _bar(start: float, seconds: float, length: float) -> Text:
    """When it ran within the whole time."""
    if length <= 0:
        return Text("")
    left = min(int(start / length * _BAR), _BAR - 1)
    eighths = min(max(round(seconds / length * _BAR * 8), 1), (_BAR - left) * 8)
    full, rest = divmod(eighths, 8)
    return Text(" " * left + "█" * full + (_EIGHTHS[rest] if rest else ""), "blue")
