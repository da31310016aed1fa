"""BM25: our inverted index against bm25s, on real text.

python benchmarks/bm25.py           both corpora
python benchmarks/bm25.py --quick   the smaller one in under a minute

Data: wordnet_glosses (117,791 short passages, its own 1,000 questions) and acl_anthology (60,608 titles and abstracts,
asked the 300 test claims of scifact), in the folder RAG_DATA. Both sides tokenise, drop English stop words and stem by
Snowball; Lucene's BM25, k1 = 0.9, b = 0.4, ten results, which are checked to have equal scores. A query's time includes
tokenising and stemming on both sides; bm25s searches by NumPy and, compiled beforehand, by numba.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bm25s
import harness
import numpy as np
import Stemmer

from rag.evaluate.datasets import load, read_documents
from rag.index.lexical import LexicalIndex, search_lexical

DATA = Path(os.environ.get("RAG_DATA", Path(__file__).parents[2] / "shared" / "data"))
STEMMER = Stemmer.Stemmer("english")
K = 10
SINGLE = 100  # queries put one by one in a round
BACKENDS = {"numpy": "bm25s (NumPy)", "numba": "bm25s (numba)"}


def tokenise(texts: Sequence[str]) -> Any:
    return bm25s.tokenize(texts, stopwords="en", stemmer=STEMMER, show_progress=False)


def build_peer(texts: Sequence[str], backend: str) -> Any:
    peer = bm25s.BM25(method="lucene", k1=0.9, b=0.4, backend=backend)
    peer.index(tokenise(texts), show_progress=False)
    return peer


def peer_search(peer: Any, queries: Sequence[str], threads: int) -> Any:
    # bm25s' NumPy side takes 0 for "no pool"; a pool of one thread only slows it down.
    n_threads = 0 if peer.backend == "numpy" and threads == 1 else threads
    return peer.retrieve(tokenise(queries), k=K, n_threads=n_threads, show_progress=False)


def measure(name: str, texts: Sequence[str], queries: Sequence[str], rounds: int) -> Iterator[harness.Row]:
    case = f"{name}, {len(texts):,} texts"
    ids = np.arange(len(texts))
    builds: dict[str, Callable[[], object]] = {
        "ours": lambda: LexicalIndex.build(ids, texts),
        "numpy": lambda: build_peer(texts, "numpy"),
    }
    seconds = harness.interleaved(builds, max(rounds // 3, 1))
    speed = {who: len(texts) / taken for who, taken in seconds.items()}
    yield harness.compare(f"{case}: build", "build", "docs/s", speed["ours"], peer("numpy"), speed["numpy"], 1)

    index = LexicalIndex.build(ids, texts)
    peers = {backend: build_peer(texts, backend) for backend in BACKENDS}
    check(index, peers["numpy"], queries)
    for batch, threads in ((1, 1), (len(queries), 1), (len(queries), 2)):
        asked = [[query] for query in queries[:SINGLE]] if batch == 1 else [list(queries)]
        contenders: dict[str, Callable[[], object]] = {
            "ours": lambda asked=asked, threads=threads: [
                search_lexical([index], batch, K, threads=threads) for batch in asked
            ]
        }
        for backend, their in peers.items():
            contenders[backend] = lambda asked=asked, threads=threads, their=their: [
                peer_search(their, batch, threads) for batch in asked
            ]
        seconds = harness.interleaved(contenders, rounds)
        total = sum(map(len, asked))
        speed = {who: total / taken for who, taken in seconds.items()}
        for backend in BACKENDS:
            what = f"{case}: {'single queries' if batch == 1 else f'a batch of {batch:,}'}"
            yield harness.compare(what, "qps", "q/s", speed["ours"], peer(backend), speed[backend], threads)


def peer(backend: str) -> tuple[str, str]:
    return BACKENDS[backend], version("bm25s")


def plain(text: str) -> str:
    """Only ASCII: bm25s does not normalise other characters, and results are to be equal."""
    return re.sub(r"[^\x00-\x7f]", " ", text)


def check(index: LexicalIndex, their: Any, queries: Sequence[str]) -> None:
    """Both must find the same scores for the comparison to mean anything."""
    ours = search_lexical([index], queries, K).scores
    theirs = peer_search(their, queries, 1).scores
    np.testing.assert_allclose(np.where(np.isneginf(ours), 0, ours), theirs, rtol=1e-5)


def draw(figure: Any, rows: Sequence[harness.Row]) -> None:
    """One panel a corpus: bars of the ratio to each peer."""
    corpora = [list(group) for _, group in itertools.groupby(rows, lambda row: row.case.split(":")[0])]
    for axes, group in zip(np.atleast_1d(figure.subplots(1, len(corpora))), corpora, strict=True):
        labels = [f"{r.case.split(': ')[1]}, {r.threads} thread{'s' * (r.threads > 1)}\n{r.peer}" for r in group]
        axes.barh(labels, [row.ratio for row in group])
        axes.axvline(1, color="black")
        axes.set(xscale="log", xlabel="times as fast as the peer", title=group[0].case.split(":")[0])
        axes.invert_yaxis()
        for i, row in enumerate(group):
            axes.annotate(f" {row.ratio:.1f}", (row.ratio, i), va="center")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="acl_anthology only, few rounds")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rounds = 3 if options.quick else options.rounds

    rows: list[harness.Row] = []
    for name, asked in (("acl_anthology", "scifact"), ("wordnet_glosses", "wordnet_glosses")):
        if options.quick and name != "acl_anthology":
            continue
        texts = [plain(document.text) for document in read_documents(DATA / name)]
        queries = [plain(query.text) for query in load(DATA / asked).queries.values()]
        for row in measure(name, texts, queries, rounds):
            print(
                f"{row.case}, {row.threads} threads: {row.ours:.4g} {row.unit}, {row.peer} {row.theirs:.4g}", flush=True
            )
            rows.append(row)
    notes = [
        f"Lucene's BM25, k1 = 0.9, b = 0.4, {K} results, English stop words and Snowball stems on both sides; medians",
        f"of {rounds} interleaved rounds; tokenising and stemming included; scores are equal. {harness.machine()};",
        f"{harness.versions('numpy', 'bm25s', 'numba', 'PyStemmer')}.",
    ]
    name = "bm25-quick" if options.quick else "bm25"
    harness.write(name, "BM25: building and searching", notes, rows, lambda figure: draw(figure, rows))


if __name__ == "__main__":
    main()
