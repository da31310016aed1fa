"""The store of cached chunks: what each eviction policy finds on a stream of questions, and how fast states are read.

python benchmarks/kvstore.py           5,000 chunks, 30,000 requests; 100 files of 4 MB
python benchmarks/kvstore.py --quick   2,000 chunks, 6,000 requests; 40 files, in under a minute
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import harness
import numpy as np
from harness import Row, compare
from numpy.typing import NDArray

from rag.kvcache import DiskStore, SegmentStates, StateKey
from rag.kvcache.eviction import Eviction, Ranking

SHARES = (0.02, 0.05, 0.1, 0.2)
STREAMS = ("steady", "drifting", "with scans")
ZIPF, PER_REQUEST, BYTES_A_TOKEN = 1.0, 5, 36_900
LAYERS, TOKENS, WIDTH = 18, 113, 256
"""Of Gemma 3 270M and a passage of SQuAD."""


def stream(kind: str, chunks: int, requests: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The chunks of each request, drawn by Zipf's law.

    `drifting`: ten times in the stream a tenth of all chunks change their popularity with others. `with scans`: every
    fourth request asks for chunks that nobody asks for again.
    """
    draw = np.random.default_rng(seed)
    weights = np.arange(1, chunks + 1) ** -ZIPF
    weights /= weights.sum()
    order = draw.permutation(chunks)
    once = chunks
    for number in range(requests):
        if kind == "with scans" and number % 4 == 3:
            yield np.arange(once, once + PER_REQUEST)
            once += PER_REQUEST
            continue
        if kind == "drifting" and number % (requests // 10) == 0:
            moved = draw.choice(chunks, chunks // 10, replace=False)
            order[moved] = order[draw.permutation(moved)]
        yield order[np.unique(draw.choice(chunks, PER_REQUEST, p=weights))]


def found_share(eviction: Eviction, requests: list[NDArray[np.int64]], lengths: NDArray[np.int64], room: int) -> float:
    """The share of asked tokens that a store of so many tokens has; the first tenth of the stream only fills it."""
    ranking: Ranking[int] = Ranking(eviction)
    held = asked = found = 0
    inside: set[int] = set()
    for number, chunks in enumerate(requests):
        counts = number >= len(requests) // 10
        for chunk in chunks.tolist():
            length = int(lengths[chunk % len(lengths)])
            asked += length * counts
            if chunk in inside:
                found += length * counts
                ranking.touch(chunk)
                continue
            held += length
            while held > room:
                victim = ranking.evict()
                assert victim is not None
                inside.remove(victim)
                held -= int(lengths[victim % len(lengths)])
            ranking.add(chunk, length, length * BYTES_A_TOKEN)
            inside.add(chunk)
    return found / asked


def eviction_rows(chunks: int, requests: int) -> list[Row]:
    lengths = np.maximum(np.random.default_rng(1).lognormal(4.7, 0.5, chunks), 16).astype(np.int64)
    rows = []
    for kind in STREAMS:
        asked = list(stream(kind, chunks, requests, 2))
        for share in SHARES:
            room = int(lengths.sum() * share)
            shares = {policy: found_share(policy, asked, lengths, room) for policy in get_args(Eviction)}
            for peer in ("lru", "lfu"):
                case = f"{kind}, room for {share:.0%}"
                rows.append(compare(case, "tokens found", "", shares["benefit"], (peer, ""), shares[peer], 1))
    return rows


def states(number: int) -> SegmentStates:
    import torch

    draw = torch.Generator().manual_seed(number)
    parts = [torch.randn(1, TOKENS, WIDTH, generator=draw) for _ in range(2 * LAYERS)]
    return SegmentStates(StateKey(f"{number}", ""), "m", tuple(parts[:LAYERS]), tuple(parts[LAYERS:]))


def load_rows(folder: Path, files: int, rounds: int) -> list[Row]:
    """Files read by the store, against the same bytes read into fresh memory, and against safetensors."""
    from safetensors.torch import load_file, save_file

    store = DiskStore(folder / "states", 1 << 40)
    keys = []
    for number in range(files):
        made = states(number)
        store.put(made)
        keys.append(made.key)
        named = {f"{number}": part for number, part in enumerate((*made.keys, *made.values))}
        save_file(named, folder / f"{number}.safetensors")
    os.sync()
    ours = [store.file(key) for key in keys]
    theirs = [folder / f"{number}.safetensors" for number in range(files)]

    def plain(number: int) -> None:
        with ours[number].open("rb", buffering=0) as file:
            file.readinto(np.empty(size, np.uint8).data)

    def other(number: int) -> None:
        for tensor in load_file(theirs[number]).values():
            tensor.view(-1)[::1024].sum()  # which reads each page of what is mapped

    size = ours[0].stat().st_size
    contenders: dict[str, Callable[[int], Any]] = {
        "ours": lambda number: store.get(keys[number]),
        "readinto": plain,
        "safetensors": other,
    }
    rows = []
    for case, clock in (("from the page cache", time.process_time), ("from the disk", time.perf_counter)):
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for number in [*range(files)] * rounds:
            for name, call in contenders.items():
                if case == "from the disk":
                    _forget([ours[number], theirs[number]])
                else:
                    call(number)
                start = clock()
                call(number)
                seconds[name].append(clock() - start)
        rate = {name: size / 1e9 / float(np.median(taken)) for name, taken in seconds.items()}
        for peer in ("readinto", "safetensors"):
            version = harness.versions("safetensors").split()[1] if peer == "safetensors" else ""
            rows.append(compare(case, "read", "GB/s", rate["ours"], (peer, version), rate[peer], 1))
    return rows


def _forget(paths: list[Path]) -> None:
    """Let the page cache drop these files."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def plot(figure: Any, rows: list[Row]) -> None:
    axes = figure.subplots(1, len(STREAMS), sharey=True)
    for ax, kind in zip(axes, STREAMS, strict=True):
        own = [row for row in rows if row.case.startswith(kind)]
        for peer in ("lru", "lfu"):
            ax.plot(SHARES, [row.theirs for row in own if row.peer == peer], "o--", label=peer)
        ax.plot(SHARES, [row.ours for row in own if row.peer == "lru"], "o-", label="benefit")
        ax.set(title=kind, xlabel="room, as a share of all chunks", xscale="log", xticks=SHARES)
        ax.set_xticklabels([f"{share:.0%}" for share in SHARES])
        ax.minorticks_off()
    axes[0].set_ylabel("share of asked tokens that is found")
    axes[0].legend()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    chunks, requests, files, rounds = (2000, 6000, 40, 3) if quick else (5000, 30_000, 100, 5)
    rows = eviction_rows(chunks, requests)
    folder = Path(tempfile.mkdtemp(dir="."))  # the disk that is worked on, not one in memory
    try:
        rows += load_rows(folder, files, rounds)
    finally:
        shutil.rmtree(folder)
    notes = [
        f"{requests:,} requests of {PER_REQUEST} chunks out of {chunks:,}, by Zipf's law with exponent {ZIPF}; lengths "
        "of chunks are log-normal, 124 tokens on average. Steady: popularity stays. Drifting: ten times a tenth of "
        "the chunks change it. With scans: every fourth request asks for chunks that nobody asks for again. The first "
        "tenth of a stream only fills the store.",
        "",
        f"Reading: {files} states of {TOKENS} tokens of Gemma 3 270M in float32, 4.2 MB each, checksums compared; from "
        "the page cache in processor time, from the disk (after posix_fadvise DONTNEED) in time on the clock. "
        "`readinto` reads the same bytes into fresh memory and does nothing with them. Medians of single files.",
        "",
        f"{harness.machine()}; {harness.versions('torch', 'safetensors')}; one thread.",
    ]
    harness.write("kvstore", "The store of cached chunks", notes, rows, lambda figure: plot(figure, rows))


if __name__ == "__main__":
    main()
