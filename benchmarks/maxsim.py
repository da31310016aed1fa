"""Exact MaxSim over the token store, against NumPy and torch: G token pairs a second, and the share of sgemm's speed.

python benchmarks/maxsim.py           d = 64 to 1,024, each codec, 1 and 2 threads; 200 candidates re-ranked
python benchmarks/maxsim.py --quick   d = 128 and 384 in under a minute

torch, maxsim-cpu and numkong take part where they are installed (numkong's score is an approximation).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import harness
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from rag import _native
from rag.index.multivector import TOKEN_CODECS, TokenStore

Floats = NDArray[np.float32]


class Shape(NamedTuple):
    """Documents of so many tokens each, and a query."""

    dim: int
    query: int
    documents: int
    tokens: int

    @property
    def case(self) -> str:
        return f"d={self.dim} {self.query} x {self.documents} x {self.tokens}"

    @property
    def pairs(self) -> int:
        return self.query * self.documents * self.tokens


SHAPES = [
    Shape(64, 32, 400, 256),
    Shape(128, 32, 400, 256),
    Shape(128, 12, 400, 150),
    Shape(384, 21, 200, 240),
    Shape(384, 12, 200, 150),
    Shape(768, 32, 150, 128),
    Shape(1024, 32, 150, 128),
]


class Timing(NamedTuple):
    """Of one shape: G pairs a second by contender, and what sgemm's speed would be."""

    shape: Shape
    threads: int
    rates: dict[str, float]
    bound: float


def unit(rng: np.random.Generator, n: int, dim: int) -> Floats:
    x = rng.standard_normal((n, dim), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def peers(shape: Shape, documents: Floats, query: Floats) -> dict[str, Callable[[], Any]]:
    """The peers that are installed, and give the right scores."""
    ragged = (shape.documents, shape.tokens, shape.query)
    found: dict[str, Callable[[], Any]] = {
        "numpy": lambda: (documents @ query.T).reshape(ragged).max(axis=1).sum(axis=1)
    }
    if importlib.util.find_spec("torch"):
        import torch

        tensor, asked = torch.from_numpy(documents), torch.from_numpy(query)
        found["torch"] = lambda: (tensor @ asked.T).reshape(ragged).amax(dim=1).sum(dim=1)
    if importlib.util.find_spec("maxsim_cpu") and shape.dim < 256:  # it returns infinities from there on
        import maxsim_cpu

        sets = documents.reshape(shape.documents, shape.tokens, shape.dim)
        found["maxsim-cpu"] = lambda: maxsim_cpu.maxsim_scores(query, sets)
    if importlib.util.find_spec("numkong"):
        import numkong

        packed = [numkong.maxsim_pack(part) for part in documents.reshape(shape.documents, shape.tokens, shape.dim)]
        packed_query = numkong.maxsim_pack(query)
        found["numkong"] = lambda: [numkong.maxsim_packed(packed_query, part) for part in packed]
    return found


def measure(shapes: list[Shape], all_threads: list[int], rounds: int) -> Iterator[Timing]:
    rng = np.random.default_rng(1)
    square = unit(rng, 1024, 1024)
    for shape in shapes:
        documents, query = unit(rng, shape.documents * shape.tokens, shape.dim), unit(rng, shape.query, shape.dim)
        offsets, asked = np.arange(shape.documents + 1) * shape.tokens, np.array([0, shape.query])
        candidates = np.arange(shape.documents)[None]
        stores = {codec: TokenStore(shape.dim, codec) for codec in TOKEN_CODECS}
        for store in stores.values():
            store.add(candidates[0], documents, offsets)
        for threads in all_threads:
            contenders: dict[str, Callable[[], Any]] = {
                codec: lambda store=store, threads=threads, query=query, asked=asked, among=candidates: store.maxsim(
                    query, asked, 10, candidates=among, threads=threads
                )
                for codec, store in stores.items()
            }
            contenders |= peers(shape, documents, query)
            contenders["sgemm"] = lambda: square @ square
            if importlib.util.find_spec("torch"):
                import torch

                torch.set_num_threads(threads)
            with threadpool_limits(threads):
                clock = time.process_time if threads == 1 else time.perf_counter
                seconds = harness.interleaved(contenders, rounds, clock)
            bound = 1024**3 / seconds.pop("sgemm") / shape.dim / 1e9
            rates = {name: shape.pairs / taken / 1e9 for name, taken in seconds.items()}
            yield Timing(shape, threads, rates, bound)


def versions() -> dict[str, tuple[str, str]]:
    names = {"numpy": "numpy", "torch": "torch", "maxsim-cpu": "maxsim_cpu", "numkong": "numkong"}
    return {
        name: (name, harness.versions(name).split()[-1])
        for name, module in names.items()
        if importlib.util.find_spec(module)
    }


def rows_of(timing: Timing) -> Iterator[harness.Row]:
    for codec in TOKEN_CODECS:
        for name, peer in versions().items():
            if name in timing.rates:
                ours, theirs = timing.rates[codec], timing.rates[name]
                yield harness.compare(
                    f"{timing.shape.case} {codec}", "rate", "Gpair/s", ours, peer, theirs, timing.threads
                )


def summary(timings: list[Timing]) -> list[str]:
    """All rates, as GFLOP/s and as a share of sgemm, and how long the query takes."""
    lines = ["| case | threads | who | Gpair/s | GFLOP/s | share of sgemm | ms |", "|---|---|---|---|---|---|---|"]
    for t in timings:
        for name, rate in t.rates.items():
            flops, ms = 2 * t.shape.dim * rate, t.shape.pairs / rate / 1e6
            share = rate / t.bound
            lines.append(
                f"| {t.shape.case} | {t.threads} | {name} | {rate:.3f} | {flops:.0f} | {share:.2f} | {ms:.2f} |"
            )
    return lines


def draw(figure: Any, timings: list[Timing]) -> None:
    """The share of sgemm's speed by case, one thread; bars for codecs and peers."""
    shown = [t for t in timings if t.threads == 1]
    names = list(dict.fromkeys(name for t in shown for name in t.rates))
    axes, width = figure.subplots(), 0.8 / len(names)
    for column, name in enumerate(names):
        places = [group + (column - len(names) / 2) * width for group in range(len(shown))]
        axes.bar(places, [t.rates.get(name, 0) / t.bound for t in shown], width, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(shown)), [t.shape.case for t in shown], rotation=15)
    axes.set_ylabel("multiplications a second, sgemm = 1")
    axes.legend()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two shapes, one thread")
    quick = parser.parse_args().quick
    shapes = [SHAPES[1], SHAPES[3]] if quick else SHAPES
    all_threads = [1] if quick else sorted({1, min(2, os.cpu_count() or 1)})
    timings = list(measure(shapes, all_threads, 5 if quick else 15))
    notes = [
        f"{harness.machine()}; kernels {_native.isa()}; {harness.versions('numpy')}. One query against documents that",
        "are candidates; random unit vectors. Cases are dimension, query tokens x documents x tokens of each. Medians",
        "of alternating runs, by processor time with one thread. sgemm: NumPy, 1024 x 1024 x 1024, in the same run.",
        "",
        *summary(timings),
    ]
    rows = [row for timing in timings for row in rows_of(timing)]
    harness.write("maxsim", "Exact MaxSim over stored tokens", notes, rows, lambda figure: draw(figure, timings))


if __name__ == "__main__":
    main()
