"""Exact scan against faiss IndexFlatIP and NumPy (BLAS matmul + argpartition): queries a second.

python benchmarks/scan.py           n = 100,000, d = 384 and 768, batches of 1 and 256, 1 and 2 threads
python benchmarks/scan.py --quick   a smaller set in under a minute
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any, NamedTuple

import faiss
import harness
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from rag import _native
from rag.index import ScanIndex

Floats = NDArray[np.float32]
K = 10
CODECS = ("float32", "float16", "int8")
SCANNED_BYTES = {"float32": 4, "float16": 2, "int8": 1}
FAISS, NUMPY = ("faiss IndexFlatIP", faiss.__version__), ("NumPy matmul + argpartition", np.__version__)
BLAS = ("NumPy matmul alone, no top-k", np.__version__)


class Timing(NamedTuple):
    dim: int
    batch: int
    threads: int
    qps: dict[str, float]
    bounds: dict[str, float]

    @property
    def case(self) -> str:
        return f"d={self.dim} batch={self.batch}"


def vectors(n: int, dim: int, seed: int) -> Floats:
    """Unit vectors whose variance falls with the dimension as that of embeddings does (power law, exponent -1/2)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim), dtype=np.float32) * np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def bandwidth(threads: int, clock: Callable[[], float], megabytes: int = 512, rounds: int = 9) -> float:
    """Bytes a second that a plain sequential read reaches at best (BLAS dot product of an array with itself)."""
    parts = np.ones((threads, megabytes * 2**18 // threads), dtype=np.float32)
    taken = []
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            start = clock()
            list(pool.map(lambda part: part @ part, parts))
            taken.append(clock() - start)
    return parts.nbytes / min(taken)


def numpy_search(base: Floats, queries: Floats) -> NDArray[np.int64]:
    scores = queries @ base.T
    best = np.argpartition(scores, -K, axis=1)[:, -K:]
    order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
    return np.take_along_axis(best, order, 1)


def measure(
    n: int, dim: int, batches: list[int], all_threads: list[int], rounds: int, busy: bool
) -> Iterator[Timing | str]:
    """Timings of one dimension, and a line on recall."""
    base, queries = vectors(n, dim, seed=1), vectors(max(*batches, 256), dim, seed=2)
    flat = faiss.IndexFlatIP(dim)
    flat.add(base)
    indexes = {codec: ScanIndex(dim, "ip", codec) for codec in CODECS}
    for index in indexes.values():
        index.add(np.arange(n), base)
    truth = flat.search(queries, K)[1]
    for codec, index in indexes.items():
        found = index.search(queries, K).ids
        recall = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(truth, found, strict=True)])
        yield f"d={dim} {codec}: recall@{K} {recall:.4f}, {sum(index.stats().bytes.values()) / n:.0f} bytes a vector"

    for batch, threads in product(batches, all_threads):
        asked = queries[:batch]
        contenders: dict[str, Callable[[], object]] = {
            codec: lambda index=index, asked=asked, threads=threads: index.search(asked, K, threads=threads)
            for codec, index in indexes.items()
        }
        contenders["faiss"] = lambda asked=asked: flat.search(asked, K)
        contenders["numpy"] = lambda asked=asked: numpy_search(base, asked)
        contenders["blas"] = lambda asked=asked: asked @ base.T
        faiss.omp_set_num_threads(threads)
        with threadpool_limits(threads):
            clock = time.process_time if busy and threads == 1 else time.perf_counter
            seconds = harness.interleaved(contenders, rounds if batch == 1 else max(rounds // 5, 3), clock)
        read = bandwidth(threads, clock)
        bounds = {codec: batch * read / (n * dim * SCANNED_BYTES[codec]) for codec in CODECS}
        yield Timing(dim, batch, threads, {name: batch / s for name, s in seconds.items()}, bounds)


def rows_of(timing: Timing) -> Iterator[harness.Row]:
    peers = {"faiss": FAISS, "numpy": NUMPY} | ({"blas": BLAS} if timing.batch > 1 else {})
    for codec in CODECS:
        for name, peer in peers.items():
            ours, theirs = timing.qps[codec], timing.qps[name]
            yield harness.compare(f"{timing.case} {codec}", "qps", "q/s", ours, peer, theirs, timing.threads)


def bound_table(timings: list[Timing]) -> list[str]:
    """What reading every code once would allow for single queries."""
    lines = [
        "| single query | threads | codec | reached q/s | bound by memory q/s | share |",
        "|---|---|---|---|---|---|",
    ]
    for t in timings:
        if t.batch == 1:
            for codec in CODECS:
                share = t.qps[codec] / t.bounds[codec]
                line = (
                    f"| d={t.dim} | {t.threads} | {codec} | {t.qps[codec]:.1f} | {t.bounds[codec]:.1f} | {share:.2f} |"
                )
                lines.append(line)
    return lines


def draw(figure: Any, timings: list[Timing]) -> None:
    """One panel for each batch size; bars for ours and the peers, a line at the bound by memory."""
    batches = sorted({t.batch for t in timings})
    names = [*CODECS, "faiss", "numpy"]
    for axes, batch in zip(figure.subplots(1, len(batches), squeeze=False)[0], batches, strict=True):
        shown = [t for t in timings if t.batch == batch]
        for column, name in enumerate(names):
            places = [group + (column - 2) * 0.17 for group in range(len(shown))]
            axes.bar(places, [t.qps[name] for t in shown], 0.16, label=name, color=f"C{column}")
            if batch == 1 and name in CODECS:
                bounds = [t.bounds[name] for t in shown]
                label = "bound by memory" if name == CODECS[0] else None
                axes.hlines(bounds, [p - 0.08 for p in places], [p + 0.08 for p in places], "black", label=label)
        axes.set_xticks(range(len(shown)), [f"d={t.dim}\n{t.threads} thread{'s' * (t.threads > 1)}" for t in shown])
        axes.set(yscale="log", ylabel="queries / s", title=f"batch of {batch}")
        axes.grid(axis="y", alpha=0.3)
        axes.margins(y=0.25)
        axes.legend(loc="upper right", ncols=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="n = 20,000, d = 384, few rounds")
    parser.add_argument("--n", type=int, default=100_000, help="vectors")
    parser.add_argument("--rounds", type=int, default=25, help="rounds for single queries; a fifth of them for batches")
    parser.add_argument(
        "--busy", action="store_true", help="one thread: count CPU time, on a machine shared with others"
    )
    options = parser.parse_args()
    n, dims, rounds = (20_000, [384], 9) if options.quick else (options.n, [384, 768], options.rounds)

    timings: list[Timing] = []
    recalls: list[str] = []
    for dim in dims:
        for result in measure(n, dim, [1, 256], [1, 2], rounds, options.busy):
            timings.append(result) if isinstance(result, Timing) else recalls.append(result)
            print(result, flush=True)
    notes = [
        f"n = {n:,} unit vectors (power-law spectrum, seed 1), inner product, k = {K}; medians of {rounds} interleaved",
        f"rounds (batches: {max(rounds // 5, 3)}){', one thread by CPU time' * options.busy}.",
        f"{harness.machine()}; kernels {_native.isa()};",
        f"{harness.versions('numpy', 'faiss-cpu')}. Bound by memory: one sequential read of all scanned codes at the",
        "speed of BLAS sdot over 512 MiB, taken beside each case; data in a large shared cache can exceed it.",
        "",
        *(f"- {line}" for line in recalls),
        "",
        *bound_table(timings),
    ]
    rows = [row for timing in timings for row in rows_of(timing)]
    name = "scan-quick" if options.quick else "scan"
    harness.write(name, "Exact scan: queries a second", notes, rows, lambda figure: draw(figure, timings))


if __name__ == "__main__":
    main()
