"""`python -m tests.index.engines.killed FOLDER POINT`: commits the known history until it dies; for `samples.killed`.

POINT is where this process kills itself in the second commit of its run: "half added" (a part of the new vectors is in
the engine), "added" (all of them, and the manifest is the old one), "committed" (the manifest is the new one, and what
was deleted is still in the engine); or "never", to be killed from outside. Prints each generation that was committed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rag.collection import Collection, engine, writer
from tests.collection.samples import ENCODER, advance


def dying(function: Callable[..., Any], at: int) -> Callable[..., Any]:
    calls = 0

    def counted(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **more)

    return counted


def run(path: Path, point: str) -> None:
    if point == "half added":
        engine.BATCH = 4  # of the 9 chunks of a commit
        engine.MilvusIndex.add = dying(engine.MilvusIndex.add, 5)  # type: ignore[method-assign]
    elif point == "added":
        writer.publish = dying(writer.publish, 2)
    elif point == "committed":
        engine.MilvusIndex.delete = dying(engine.MilvusIndex.delete, 2)  # type: ignore[method-assign]
    with Collection.open(path, encoder=ENCODER) as collection, collection.writer() as writing:
        while True:
            print(advance(writing), flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
