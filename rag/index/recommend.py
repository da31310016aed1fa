"""Which index suits vectors: the one cost model, for `rag profile` and for collections that decide by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rag.errors import InputError
from rag.index.native import CODECS, Codec
from rag.index.order import Order
from rag.index.profile import Profile
from rag.index.trial import CodecProfile

__all__ = ["GRAPH_FROM", "RECALL", "Choice", "Recommendation", "choose", "recommend"]

GRAPH_FROM = 8 << 20
"""Bytes that one search of a scan may read: 131,072 vectors at 64 bytes (leanvec), 5,461 of 384 float32 numbers.

A scan on one thread takes some 3 ns for a vector of 64 bytes, so 0.4 ms at most, and a third of that for each of many
queries in a batch. To encode the question costs more: several milliseconds with a small transformer. So nobody feels a
faster search; and a scan is built in seconds, misses nothing that its codec holds, and makes nothing of filters and
deletions. A graph answers in 0.1 ms at recall 0.99 (text, 117,791 x 384) and costs 0.2 ms of processor time a vector.
With 131,072 vectors that is 26 s, which 0.3 ms saved a search repay after 90,000 of them; with 30,000 vectors a scan is
no slower. From the border on a scan grows with the vectors, and is felt where many ask at once; a graph hardly grows.
The same bytes decide between exact and compressed: as long as all numbers are read within them, none is rounded."""
RECALL = 0.99
"""Share of the 10 nearest that a codec has to let a search find, and that a search of a collection asks a graph for.

With less, a collection would find less on the day it outgrows the scan: at 0.95 a graph found 0.967 of the 100 nearest
of the same text, which rerankers are given, at 0.99 it found 0.992, for a quarter of a millisecond more."""
NANOSECONDS_A_BYTE = 0.045

GRAPH_CODECS: tuple[Codec, ...] = ("leanvec4", "rabitq4", "lvq4x8", "int8")
"""For a graph, the best first. A walk sees first copies alone, and each step rests on the one before: 4 bits lead it
better than 1 or 2. It ranks again what it has seen, more for a higher recall: so the recall of the sample counts."""
ROUNDED: frozenset[Codec] = frozenset({"lvq4x4"})
"""Never chosen: its finer copy has 8 bits a number, and whenever segments are merged vectors are rounded anew. With the
12 bits of the others these errors stay far below what decides a ranking, with 8 they add up."""
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


class Choice(NamedTuple):
    """An index, and the bytes that the scan which was considered for it reads in one search."""

    kind: Literal["scan", "graph"]
    codec: Codec
    read: float


def choose(
    count: int,
    sizes: Mapping[Codec, tuple[float, float]],
    trial: Callable[[Codec], CodecProfile | None],
    *,
    recall: float = RECALL,
    graph_codecs: Sequence[Codec] = GRAPH_CODECS,
) -> Choice:
    """The index for so many vectors, with the fewest trials.

    `sizes`: for each codec that may be chosen, float32 among them, bytes a vector and those that a first pass reads.
    `trial` tells what a codec finds, or None where it cannot hold the vectors.

    Few vectors are scanned as they are. Of more, the codec is the one of which a search reads the fewest bytes, among
    those with which a scan of all is expected to reach the recall (of equals leanvec, which is the fastest to score);
    the one that finds most where none does. Where also that scan reads too much, a graph, with the first of its codecs
    that finds enough on the sample.
    """
    if (exact := count * sizes["float32"][1]) <= GRAPH_FROM:
        return Choice("scan", "float32", exact)
    found: dict[Codec, CodecProfile] = {}
    for codec in sorted(
        sizes.keys() - ROUNDED, key=lambda c: (*sizes[c][::-1], not c.startswith("leanvec"), CODECS.index(c))
    ):
        if (figures := trial(codec)) is not None:
            found[codec] = figures
            if figures.expected >= recall:
                best = codec
                break
    else:
        best = max(found, key=lambda c: found[c].expected)
    read = count * sizes[best][1]
    if read <= GRAPH_FROM:
        return Choice("scan", best, read)
    for codec in graph_codecs:
        walked = found[codec] if codec in found else trial(codec) if codec in sizes else None
        if walked is not None and walked.recall >= recall:
            return Choice("graph", codec, read)
    return Choice("graph", best, read)


def recommend(profile: Profile, *, recall: float = RECALL) -> Recommendation:
    """Choose scan or graph, codec and order of insertion, for at least this recall@10, as `choose` does.

    Raises InputError for a recall outside of 0 to 1.
    """
    if not 0 < recall <= 1:
        raise InputError(f"recall is {recall!r}, expected more than 0 and at most 1")
    reasons = []
    figures = {c.codec: c for c in profile.codecs}
    sizes = {c.codec: (c.bytes, c.scanned) for c in profile.codecs}
    choice = choose(profile.count, sizes, figures.get, recall=recall)
    graph = choice.kind == "graph"
    best, exact = figures[choice.codec], figures["float32"]
    scan_us = choice.read * NANOSECONDS_A_BYTE / 1000
    if profile.count * exact.scanned <= GRAPH_FROM:
        reasons.append(f"float32: {profile.count} vectors are so few that compressing them gains nothing")
    if best is not exact:
        told = f"{best.recall:.3f} on the sample" if graph else f"{best.expected:.3f} expected"
        reasons.append(
            f"{best.codec}: recall {told} where {recall} is asked for, in {best.bytes:.0f} bytes a vector, "
            f"{best.scanned:.0f} of them in the first copy; float32 takes {exact.bytes:.0f}"
        )
    reasons.append(
        f"{choice.kind}: a scan reads {choice.read / 2**20:.1f} MiB in about {scan_us:.0f} us for a query; a "
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
    return Recommendation(choice.kind, best.codec, order, best, scan_us, tuple(reasons))
