"""Work that is lost: nodes whose values nothing reads, and that are not what the flow ends with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag.pipelines.plan import Path, Scope, Slot, WriteId

__all__ = ["Unread"]

_ON_THE_WAY = ("query", "queries", "route")
"""Channels that lead to results and are none, unless the flow makes nothing else."""


class Unread:
    """What a flow writes and reads, noted while it is compiled.

    A node is found when every one of its writes was neither read, by whoever may see it on some way or in a later
    round of a loop, nor is among the results at the end. A node of which one value is used is not: an operator that
    returns several may well be used for one of them.
    """

    def __init__(self) -> None:
        self.read: set[WriteId] = set()
        self._nodes: dict[Path, tuple[str, tuple[str, ...]]] = {}
        self._written_over: dict[WriteId, str] = {}

    def write(self, node: str, path: Path, before: Mapping[str, Slot | None]) -> None:
        """Note that a node writes these channels, and what they held."""
        self._nodes[path] = (node, tuple(before))
        for slot in before.values():
            for write in slot.writes if slot is not None else ():
                if write[0] != path:  # in a loop a node writes over its own last round
                    self._written_over.setdefault(write, node)

    def found(self, final: Scope) -> Iterator[tuple[str, Path, str, str]]:
        """Node, path, what is wrong, what to do: for each node that works for nothing."""
        made = {channel: slot.writes for channel, slot in final.items() if slot.writes}
        # After branches the values of `query` are kept in a channel that is named after it: "query by parallel".
        results = [writes for channel, writes in made.items() if channel.partition(" ")[0] not in _ON_THE_WAY]
        used = self.read.union(*(results or made.values()))
        for path, (node, channels) in self._nodes.items():
            writes = [(path, channel) for channel in channels]
            if not writes or not used.isdisjoint(writes):
                continue
            what = "channel " + ", ".join(repr(channel) for channel in channels)
            over = next((self._written_over[write] for write in writes if write in self._written_over), None)
            if over is None:
                hint = "leave it out, or put it before what should read it"
                yield node, path, f"writes {what}, which nothing after it reads", hint
            else:
                hint = "join the two as branches, (a | b) >> fuse" if "hits" in channels else "leave one of them out"
                yield node, path, f"writes {what}, which {over!r} writes over before anything reads it", hint
