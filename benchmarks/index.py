"""Vector indexes, ours and every peer that is installed: queries a second at equal recall, bytes, and build time.

python benchmarks/index.py                       wordnet, fashion and synthetic vectors; indexes are built once and kept
python benchmarks/index.py --data synthetic1m    one data set; the tables of the others stay as they were
python benchmarks/index.py --quick               3,000 vectors, all code paths; writes nothing

wordnet: 117,791 glosses (x 384, unit length) with its own queries and, of another distribution, questions of SQuAD.
fashion: 60,000 x 784, l2 (Debian package dataset-fashion-mnist, or --fashion FOLDER).
synthetic, synthetic1m: 200,000 and 1,000,000 x 768, inner product, queries of another distribution.

One thread counts CPU time, two wall time. Recall@10 is against exact neighbours. Speeds at a recall are interpolated
(log-linear) between efforts, each the median of the passes, in which all indexes take turns.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import ann_report
import harness
from ann_data import FASHION, NAMES, Dataset, datasets
from ann_index import OURS, Contender
from ann_peers import PEERS
from ann_store import Built, built
from ann_sweep import sweep

from rag import _native

CURVES = harness.RESULTS / "index-curves.json"


def installed(table: list[Contender], words: list[str] | None) -> list[Contender]:
    """Those whose names hold one of the words given (None: all); what is not installed is a printed line."""
    picked = []
    for contender in table:
        if words is None or any(word.lower() in contender.name.lower() for word in words):
            try:
                assert contender.version
                picked.append(contender)
            except PackageNotFoundError:
                print(f"{contender.name} skipped: pip install {contender.package}", flush=True)
    return picked


def default_cache() -> Path:
    """In the user's own cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modular-rag" / "benchmarks"


def builds(data: Dataset, contenders: list[Contender], threads: int) -> dict[Contender, Built]:
    """All that can be built on this data set."""
    found = {}
    for contender in contenders:
        if contender.fits(data):
            build = built(contender, data, threads)
            if isinstance(build, str):
                print(f"{contender.name} skipped on {data.name}: {build}", flush=True)
            else:
                found[contender] = build
                print(f"  {contender.name}: built in {build.cpu_s:.1f} CPU s", flush=True)
    return found


def measure(data: Dataset, contenders: list[Contender], options: argparse.Namespace) -> ann_report.Result:
    print(f"{data.name}: {data.shape}", flush=True)
    found = builds(data, contenders, options.build_threads)
    measured = sweep(data, found, options.threads, options.passes, options.budget, int(options.memory * 2**30))
    how = (
        f"Builds on {options.build_threads} thread(s), each timed when it was made and kept, perhaps under another "
        f"load; searches: medians of {options.passes} passes in turns. "
        f"{harness.machine()}, our kernels {_native.isa()}."
    )
    return {"shape": data.shape, "how": how, "indexes": measured}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3,000 vectors, few queries, two passes; writes nothing")
    parser.add_argument("--data", nargs="+", choices=NAMES, default=list(NAMES[:3]), help="data sets")
    parser.add_argument("--ours", nargs="*", help="words in the names of our configurations (default: all)")
    parser.add_argument("--peers", nargs="*", help="words in the names of peers (default: all that are installed)")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="of searches")
    parser.add_argument("--build-threads", type=int, default=1, help="of builds")
    parser.add_argument("--passes", type=int, default=5, help="of which the median counts")
    parser.add_argument("--budget", type=float, default=0.1, help="CPU seconds for each effort in a pass")
    parser.add_argument("--memory", type=float, default=16, help="GiB of indexes loaded at a time")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder of vectors and built indexes")
    parser.add_argument("--fashion", type=Path, default=FASHION, help="folder of the fashion-mnist files")
    parser.add_argument("--list", action="store_true", help="name all configurations and stop")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    contenders = [*installed(OURS, options.ours), *installed(PEERS, options.peers)]
    if options.list:
        print("\n".join(f"{contender.name}: {contender.version}" for contender in contenders))
        return
    with ExitStack() as stack:
        if options.quick:
            options.passes, options.budget = 2, 0.005
            options.cache = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sets = datasets(options.data, options.cache, options.fashion, 3000 if options.quick else None)
        results = {data.name: measure(data, contenders, options) for data in sets}
    if options.quick:
        print("\n".join(line for name, result in results.items() for line in ann_report.tables(name, result)))
        return
    report({**ann_report.read(CURVES), **results})


def report(results: dict[str, ann_report.Result]) -> None:
    """Write curves, tables and plots; one plot for each data set, the first one as that of the page."""
    results = {name: results[name] for name in NAMES if name in results}
    ann_report.write(CURVES, results)
    rows = [row for name, result in results.items() for row in ann_report.rows(name, result)]
    notes = [line for name, result in results.items() for line in ann_report.tables(name, result)]
    more = [f"![{name}](index-{name}.png)" for name in list(results)[1:]]
    first, *others = results.items()
    intro = [
        "Queries a second at recall@10 of 0.90, 0.95 and 0.99, interpolated between efforts; one thread by CPU time,",
        "more by wall time. Recall is measured apart for single queries and for batches, since our graph scans for a",
        "batch where that costs less. Bytes are those of the saved index, everything included. All points are in",
        "`index-curves.json`.",
        "",
    ]
    title = "Vector indexes: queries a second at equal recall"
    harness.write("index", title, [*intro, *notes, *more], rows, lambda figure: ann_report.draw(figure, *first))
    for name, result in others:
        ann_report.save_plot(harness.RESULTS / f"index-{name}.png", name, result)


if __name__ == "__main__":
    main()
