"""Serving: 64 clients that ask one question after another, with their requests coalesced into batches and without.

python benchmarks/serving.py           1,398 documents, both encoders
python benchmarks/serving.py --quick   the hashing encoder only, in under a minute

Data: cranfield in the folder RAG_DATA, its 225 questions in turn, through the ready-made pipeline `hybrid`. `service`
calls the service in this process; `HTTP` asks it over loopback from another process, whose own work (client, JSON)
shares the machine and is the same on both sides. The peer is the same service with batches of one in as many threads
as batching uses requests at most, so that it lacks nothing but the batches. Both answer alike.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness

from rag.collection import Collection
from rag.evaluate.build import collection_of
from rag.evaluate.datasets import Dataset, load
from rag.pipelines import Pipeline
from rag.serve.service import Limits, Service

DATA = Path(os.environ.get("RAG_DATA", Path(__file__).parents[2] / "shared" / "data"))
PRESET = Path(__file__).parents[1] / "rag" / "pipelines" / "presets" / "hybrid.yaml"
CLIENTS = 64
SIDES = {
    "coalesced": Limits(),
    "one by one": Limits(max_batch=1, at_once=32),
}


async def ask_all(ask: Any, questions: list[str], seconds: float) -> tuple[float, float]:
    """Requests a second, and the median seconds of one, when CLIENTS clients ask without pause."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        turn = number
        while time.perf_counter() < end:
            began = time.perf_counter()
            await ask(questions[turn % len(questions)])
            took.append(time.perf_counter() - began)
            turn += CLIENTS

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return len(took) / (time.perf_counter() - began), statistics.median(took)


def in_process(service: Service, questions: list[str], seconds: float) -> tuple[float, float]:
    async def main() -> tuple[float, float]:
        return await ask_all(lambda q: service.run("hybrid", {"query": q}), questions, seconds)

    return asyncio.run(main())


def over_http(url: str, questions: list[str], seconds: float) -> tuple[float, float]:
    command = [sys.executable, __file__, "--client", url, "--seconds", str(seconds)]
    done = subprocess.run(command, input="\n".join(questions), capture_output=True, text=True, check=True)
    rate, median = done.stdout.split()
    return float(rate), float(median)


async def client_process(url: str, seconds: float) -> None:
    import httpx2

    questions = sys.stdin.read().splitlines()
    limits = httpx2.Limits(max_connections=CLIENTS)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=60) as client:

        async def ask(question: str) -> None:
            (await client.post("/v1/pipelines/hybrid/run", json={"query": question})).raise_for_status()

        await ask_all(ask, questions, 0.5)  # connections are made
        print(*await ask_all(ask, questions, seconds))


@contextmanager
def serving(service: Service) -> Iterator[str]:
    import threading

    import uvicorn

    from rag.serve.http import make_app

    server = uvicorn.Server(uvicorn.Config(make_app(service), port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def measure(dataset: Dataset, encoder: str, rounds: int, seconds: float, folder: Path) -> Iterator[harness.Row]:
    collection = collection_of(dataset, encoder=encoder, cache=folder)
    questions = [query.text for query in dataset.queries.values()]
    results: dict[tuple[str, str], list[tuple[float, float]]] = {}
    batches: dict[str, float] = {}
    for _ in range(rounds):
        for side, limits in SIDES.items():
            for how in ("service", "HTTP"):
                service = fresh(collection, limits)
                in_process(service, questions, 0.3)
                if how == "service":
                    found = in_process(service, questions, seconds)
                else:
                    with serving(service) as url:
                        found = over_http(url, questions, seconds)
                results.setdefault((how, side), []).append(found)
                if side == "coalesced":
                    batches[how] = mean_batch(service)
    for how in ("service", "HTTP"):
        (rate, wait), (peer_rate, peer_wait) = (
            tuple(statistics.median(column) for column in zip(*results[how, side], strict=True)) for side in SIDES
        )
        case = f"{how}, {encoder.partition(':')[0]}, batches of {batches[how]:.1f} on average"
        peer = ("one by one", "")
        yield harness.compare(case, "requests_per_second", "1/s", rate, peer, peer_rate, 2)
        yield harness.compare(case, "median_latency", "ms", 1e3 * wait, peer, 1e3 * peer_wait, 2, more=False)


def fresh(collection: Collection, limits: Limits) -> Service:
    return Service([Pipeline.from_yaml(PRESET, collection=collection)], limits=limits).bind()


def mean_batch(service: Service) -> float:
    lines = dict(line.rsplit(" ", 1) for line in service.batches.lines())
    return float(lines['rag_batch_size_sum{pipeline="hybrid"}']) / float(
        lines['rag_batch_size_count{pipeline="hybrid"}']
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the hashing encoder only")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        asyncio.run(client_process(options.client, options.seconds))
        return
    dataset = load(DATA / "cranfield")
    encoders = ["hashing:384"] if options.quick else ["hashing:384", "all-MiniLM-L6-v2"]
    rounds, seconds = (3, 1.5) if options.quick else (5, 3.0)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for e in encoders for row in measure(dataset, e, rounds, seconds, Path(folder))]
    name = "serving-quick" if options.quick else "serving"
    notes = [
        f"{CLIENTS} clients without pause, pipeline `hybrid` (dense and BM25, 100 hits each, fused; ten are returned), "
        f"cranfield, {len(dataset.documents):,} documents. Medians of {rounds} rounds of {seconds:g} s, sides in turn.",
        "",
        harness.machine(),
        harness.versions("uvicorn", "starlette", "httpx2"),
    ]
    harness.write(name, "Serving: requests coalesced into batches", notes, rows, lambda figure: plot(figure, rows))


def plot(figure: Any, rows: list[harness.Row]) -> None:
    chosen = [row for row in rows if row.metric == "requests_per_second"]
    axes = figure.subplots()
    places = range(len(chosen))
    axes.barh([p + 0.2 for p in places], [r.ours for r in chosen], 0.38, label="coalesced")
    axes.barh([p - 0.2 for p in places], [r.theirs for r in chosen], 0.38, label="one by one")
    axes.set_yticks(list(places), [r.case for r in chosen])
    axes.set_xlabel("requests a second (more is better)")
    axes.legend()


if __name__ == "__main__":
    main()
