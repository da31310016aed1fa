"""Which index suits vectors with a given profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rag.errors import InputError
from rag.index.native import Codec
from rag.index.order import Order
from rag.index.profile import CodecProfile, Profile

__all__ = ["GRAPH_FROM", "Recommendation", "recommend"]

GRAPH_FROM = 2 << 20
"""Bytes that one search of a scan may read; with more, walk a graph.

A scan on one thread reads about 10 bytes in a nanosecond: 6 ns for a vector of which it reads a line of 64 bytes. Our
graph answers at recall 0.99 in some 200 us (60 us at 0.95; 117,791 x 384), in which a scan reads these 2 MiB: 32,768
such vectors. Below, a scan finds as much in less time, and building it, filters and deletions cost next to nothing.
At the border a graph is up to three times as fast at recall 0.95, but by less than a fifth of a millisecond."""
NANOSECONDS_A_BYTE = 0.094

GRAPH_CODECS: tuple[Codec, ...] = ("leanvec4", "rabitq4", "lvq4x8", "int8")
"""For a graph, the best first. A walk sees first copies alone, and each step rests on the one before: 4 bits lead it
better than 1 or 2. It ranks again what it has seen, more for a higher recall: so the recall of the sample counts."""
SORTED = 0.9
"""`succession` below which neighbouring rows count as alike."""
STRANGE = 0.5
"""Share of far queries from which they count as unlike the vectors."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An index for the vectors of a profile, with the reasons for each choice."""

    kind: Literal["scan", "graph"]
    codec: Codec
    order: Order
    """Of insertion; a scan does not care."""
    expected: CodecProfile
    scan_us: float
    """Microseconds that the best scan takes for one query on one thread, by the bytes it reads."""
    reasons: tuple[str, ...]


def recommend(profile: Profile, *, recall: float = 0.99) -> Recommendation:
    """Choose scan or graph, codec and order of insertion, for at least this recall@10.

    The codec is the one of which a search reads the fewest bytes, among those with which a scan of all is expected to
    reach the recall (of equals leanvec, which is the fastest to score); the one that finds most where none does.
    Raises InputError for a recall outside of 0 to 1.
    """
    if not 0 < recall <= 1:
        raise InputError(f"recall is {recall!r}, expected more than 0 and at most 1")
    reasons = []
    enough = [c for c in profile.codecs if c.expected >= recall] or [max(profile.codecs, key=lambda c: c.expected)]
    best = min(enough, key=lambda c: (c.scanned, c.bytes, not c.codec.startswith("leanvec"), -c.expected))
    exact = next(c for c in profile.codecs if c.codec == "float32")
    if profile.count * exact.scanned <= GRAPH_FROM:
        best = exact
        reasons.append(f"float32: {profile.count} vectors are so few that compressing them gains nothing")
    read = profile.count * best.scanned
    scan_us = read * NANOSECONDS_A_BYTE / 1000
    graph = read > GRAPH_FROM
    if graph:
        reached = {c.codec: c for c in profile.codecs if c.recall >= recall}
        best = next((reached[codec] for codec in GRAPH_CODECS if codec in reached), best)
    if best is not exact:
        told = f"{best.recall:.3f} on the sample" if graph else f"{best.expected:.3f} expected"
        reasons.append(
            f"{best.codec}: recall {told} where {recall} is asked for, in {best.bytes:.0f} bytes a vector, "
            f"{best.scanned:.0f} of them in the first copy; float32 takes {exact.bytes:.0f}"
        )
    reasons.append(
        f"{'graph' if graph else 'scan'}: a scan reads {read / 2**20:.1f} MiB in about {scan_us:.0f} us for a query; a "
        f"graph pays from {GRAPH_FROM / 2**20:.0f} MiB on"
    )
    order: Order = "given"
    if graph and profile.succession < SORTED:
        order = "random"
        reasons.append(
            f"order random: each vector is {profile.succession:.2f} times as far from the next as from any other, "
            "so they are sorted by topic, and a graph grown in such an order finds less"
        )
    if best.codec.startswith("leanvec") and profile.queries is not None and profile.queries.far > STRANGE:
        reasons.append(
            f"queries are unlike the vectors ({profile.queries.far:.0%} are farther off than 95 % of these): let "
            "leanvec learn from a sample of them (ScanIndex.learn)"
        )
    return Recommendation("graph" if graph else "scan", best.codec, order, best, scan_us, tuple(reasons))
