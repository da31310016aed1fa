"""The default model without torch against sentence-transformers: texts a second, latency, time to the first vector.

python benchmarks/encode.py           SciFact abstracts and claims (environment RAG_DATA), 1 and 2 threads
python benchmarks/encode.py --quick   fewer texts and rounds
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import sentence_transformers
import torch

from rag._native import TransformerEncoder
from rag.encoders import load
from rag.encoders.loading import find_checkpoint

PEER = ("sentence-transformers", f"{sentence_transformers.__version__} (torch {torch.__version__})")
STARTS = {
    "ours": "from rag.encoders import load; load().encode_queries(['what is a transformer?'])",
    "peer": "import sentence_transformers as s; s.SentenceTransformer({folder!r}).encode(['what is a transformer?'])",
}


def texts(passages: int, queries: int) -> tuple[list[str], list[str]]:
    """Abstracts with their titles, and claims."""
    folder = Path(os.environ.get("RAG_DATA") or Path(__file__).parents[2] / "shared" / "data") / "scifact"
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        documents = [json.loads(line) for _, line in zip(range(passages), file, strict=False)]
    with (folder / "queries.jsonl").open(encoding="utf-8") as file:
        claims = [json.loads(line)["text"] for _, line in zip(range(queries), file, strict=False)]
    return [f"{d['title']} {d['text']}" for d in documents], claims


def measure(passages: list[str], queries: list[str], rounds: int) -> list[harness.Row]:
    """Rows for both kinds of text, one text at a time and many, and the cosine between both vectors of each text."""
    peer = sentence_transformers.SentenceTransformer(str(find_checkpoint("all-MiniLM-L6-v2")), device="cpu")
    theirs = partial(peer.encode, normalize_embeddings=True, show_progress_bar=False)
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        ours = load(threads=threads).encode_queries
        for case, some in (("passages", passages), ("queries", queries)):
            seconds = harness.interleaved({"ours": partial(ours, some), "peer": partial(theirs, some)}, rounds)
            rates = {name: len(some) / taken for name, taken in seconds.items()}
            case = f"{case}, all at once"
            rows.append(harness.compare(case, "throughput", "texts/s", rates["ours"], PEER, rates["peer"], threads))
        single = queries[:15]
        seconds = harness.interleaved(
            {"ours": partial(one_by_one, ours, single), "peer": partial(one_by_one, theirs, single)}, rounds
        )
        each = {name: 1000 * taken / len(single) for name, taken in seconds.items()}
        rows.append(
            harness.compare("one query", "latency", "ms", each["ours"], PEER, each["peer"], threads, more=False)
        )
    cosine = float((ours(passages + queries) * theirs(passages + queries)).sum(1).min())
    rows.append(harness.compare("both", "smallest cosine to the peer's vector", "", cosine, PEER, 1.0, 2))
    return rows


def one_by_one(encode: Callable[[list[str]], Any], some: list[str]) -> None:
    for text in some:
        encode([text])


def measure_start(rounds: int) -> harness.Row:
    """From the start of a process to its first vector, with warm file caches."""
    folder = str(find_checkpoint("all-MiniLM-L6-v2"))

    def start(name: str) -> None:
        subprocess.run([sys.executable, "-c", STARTS[name].format(folder=folder)], check=True, capture_output=True)

    seconds = harness.interleaved({name: lambda name=name: start(name) for name in STARTS}, rounds)
    return harness.compare(
        "process start", "time to the first vector", "s", seconds["ours"], PEER, seconds["peer"], 2, more=False
    )


def draw(figure: Any, rows: list[harness.Row]) -> None:
    """Ratios as bars."""
    axes = figure.subplots()
    names = [f"{r.case}, {r.threads} thread{'s' if r.threads > 1 else ''}" for r in rows]
    bars = axes.barh(names[::-1], [r.ratio for r in rows[::-1]], color="#4477aa")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlabel("times as fast as sentence-transformers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 passages, 64 queries, 3 rounds")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    counts, rounds = ((16, 64), 3) if options.quick else ((96, 384), options.rounds)
    passages, queries = texts(*counts)
    counter = load()
    read, short = (np.minimum(np.array(counter.count_tokens(some)) + 2, 256).mean() for some in (passages, queries))

    rows = measure(passages, queries, rounds)
    rows.insert(-1, measure_start(3))
    notes = [
        f"all-MiniLM-L6-v2, float32. {len(passages)} SciFact abstracts of {read:.0f} tokens on average (at",
        f"most 256 are read) and {len(queries)} claims of {short:.0f} tokens; medians of {rounds} interleaved",
        f"rounds, tokenization included. {harness.machine()};",
        f"kernels {TransformerEncoder.isas()[0]}; {harness.versions('numpy', 'tokenizers', 'transformers')}.",
    ]
    if os.getloadavg()[0] > 2.5:  # more than this benchmark's own two threads
        notes += [
            "",
            "**The machine was busy with other work.** Both took turns, so one-thread ratios hold, but absolute",
            "figures are too low, and two-thread ratios flatter us: torch's threads wait for each other, ours do not.",
        ]
    name = "encode-quick" if options.quick else "encode"
    harness.write(name, "Encoding texts", notes, rows, lambda figure: draw(figure, rows[:-1]))


if __name__ == "__main__":
    main()
