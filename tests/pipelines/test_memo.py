"""Results that are kept: the content cache, and the checkpoint of a run that was cut off."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.collection import Collection
from rag.errors import DamagedFileError, OperatorError
from rag.operators import Channel, Operator, operator
from rag.operators.retrieval import BM25, Dense, Fuse
from rag.pipelines import Checkpoint, ContentCache, Loop, Pipeline, Run
from rag.pipelines.content import NotKept, digest, from_bytes, to_bytes
from rag.pipelines.memo import MISS
from rag.types import Answer, Chunk, Citation, Context, Document, Hits, Message, Passage, Query, Usage
from tests.pipelines.test_flows import N

Number = Annotated[int, Channel("n")]
calls: list[Any] = []


class Slow(Operator, name="testing.slow", waits=True):
    """Adds, and remembers that it was asked."""

    by: int = 1

    def run(self, n: int) -> Number:
        calls.append(n)
        return n + self.by


class SlowBatch(Operator, name="testing.slow_batch", waits=True):
    """Adds in batches, and remembers which."""

    def run(self, n: int) -> Number:
        return self.run_batch([n])[0]

    def run_batch(self, n: list[int]) -> list[int]:
        calls.append(list(n))
        return [value + 1 for value in n]


class Dice(Operator, name="testing.dice", waits=True, deterministic=False):
    """Gives another number each time."""

    def run(self, n: int) -> Number:
        calls.append(n)
        return n + len(calls)


@pytest.fixture(autouse=True)
def forget() -> None:
    calls.clear()


VALUES = [
    None,
    "text\ud800é",
    True,
    3,
    2.5,
    [1, "a", None],
    (1, 2),
    {"a": [1]},
    np.arange(6, dtype=np.float32).reshape(2, 3),
    Query("q", "year > 1", np.ones(3, dtype=np.float32)),
    Hits([3, 1], [0.5, 0.25], {"branch": np.array([0, 1])}),
    Context((Passage(1, 7, "d", "t", 0, 1, 1, 0.5, {"page": 3}),), 2),
    Answer("a [1]", (Citation(1, 7, "d", 0, 1, 1, "t"),), True, 0.5, Usage(1, 2, 3)),
    [Message("user", "hi")],
    Document("d", "text", {"tags": ["a"]}),
    Chunk("d", "t", 0, 1, 4, (0, 9), {}),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_what_flows_survives_as_bytes(value: Any):
    again = from_bytes(to_bytes(value))
    assert type(again) is type(value)
    assert to_bytes(again) == to_bytes(value)
    assert digest(again) == digest(value)
    if isinstance(value, Hits):
        assert again == value


@given(st.lists(st.floats(width=32, allow_nan=False)), st.lists(st.floats(width=32, allow_nan=False)))
def test_digests_are_equal_for_equal_content_only(a: list[float], b: list[float]):
    first, second = (np.array(v, dtype=np.float32) for v in (a, b))
    assert (digest(first) == digest(second)) is (first.tobytes() == second.tobytes())
    assert digest(first, second) != digest(np.concatenate([first, second]))


def test_other_types_are_not_kept():
    with pytest.raises(NotKept):
        to_bytes(object())
    cache = ContentCache()
    cache.put("key", object())
    assert cache.get("key", None) is MISS


def test_a_cached_result_is_not_computed_again():
    cache = ContentCache()
    pipeline = Pipeline(Slow(by=2) >> Slow(by=3), inputs=N, cache=cache)
    assert [pipeline.run(n=1).n, pipeline.run(n=1).n, asyncio.run(pipeline.arun(n=1)).n] == [6, 6, 6]
    assert calls == [1, 3]
    assert (cache.hits, cache.misses) == (4, 2)
    assert Pipeline(Slow(by=5), inputs=N, cache=cache).run(n=1).n == 6
    assert calls == [1, 3, 1]
    assert list(pipeline.stream({"n": 1}))[-1].state.n == 6


def test_pipelines_share_what_they_have_in_common():
    cache = ContentCache()
    Pipeline(Slow() >> Slow(by=10), inputs=N, cache=cache).run(n=0)
    Pipeline(Slow() >> Slow(by=20), inputs=N, cache=cache).run(n=0)
    assert calls == [0, 1, 1]


def test_of_a_batch_only_what_is_new_is_computed():
    pipeline = Pipeline(SlowBatch(), inputs=N, cache=ContentCache())
    pipeline.run(n=1)
    assert [s.n for s in pipeline.run_batch([{"n": i} for i in range(4)])] == [1, 2, 3, 4]
    assert calls == [[1], [0, 2, 3]]


def test_what_is_not_deterministic_is_not_cached():
    pipeline = Pipeline(Dice(), inputs=N, cache=ContentCache())
    assert pipeline.run(n=0).n != pipeline.run(n=0).n


def test_memory_is_bounded():
    cache = ContentCache(in_memory=2)
    pipeline = Pipeline(Slow(), inputs=N, cache=cache)
    for n in (1, 2, 3, 1):
        pipeline.run(n=n)
    assert calls == [1, 2, 3, 1]


def test_a_cache_on_disk_serves_the_next_process(tmp_path: Path):
    first = ContentCache(tmp_path / "cache.sqlite")
    Pipeline(Slow(), inputs=N, cache=first).run(n=1)
    first.close()
    Pipeline(Slow(), inputs=N, cache=ContentCache(tmp_path / "cache.sqlite")).run(n=1)
    assert calls == [1]


def test_a_file_that_is_no_cache_is_told(tmp_path: Path):
    (tmp_path / "cache.sqlite").write_text("not a database, but long enough to be looked at as one " * 40)
    with pytest.raises(DamagedFileError, match="cache.sqlite"):
        ContentCache(tmp_path / "cache.sqlite")


def test_retrieval_is_cached_until_the_collection_changes(tmp_path: Path):
    with Collection.create(tmp_path / "kb", encoder="hashing:32") as kb:
        add(kb, "a", "cats sleep")
        cache = ContentCache()
        pipeline = Pipeline((Dense(k=3) | BM25(k=3)) >> Fuse(), collection=kb, cache=cache)
        first, second = pipeline.run("cats").hits, pipeline.run("cats").hits
        assert first == second
        assert second.chunks()[0].text == "cats sleep"
        assert cache.hits == 2
        add(kb, "b", "cats cats cats")
        assert len(pipeline.run("cats").hits) == 2


def add(kb: Collection, name: str, text: str) -> None:
    with kb.writer() as writer:
        writer.add([Document(name, text)], [[Chunk(name, text, 0, len(text))]], kb.encoder.encode_documents([text]))
        writer.commit()
    kb.refresh()


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path):
    broken = [True]

    @operator(deterministic=False)
    def fragile(n: int) -> Number:
        if n > 5 and broken[0]:
            raise ConnectionError("gone")
        return n

    pipeline = Pipeline(Loop(Dice() >> fragile(), at_most=4) >> Slow(), inputs=N)
    with pytest.raises(OperatorError, match="gone"):
        pipeline.run(n=0, checkpoint=Checkpoint(tmp_path / "run"))
    done = len(calls)
    assert done == 3
    broken[0] = False
    result = pipeline.run(n=0, checkpoint=Checkpoint(tmp_path / "run")).n
    assert len(calls) == 3 + 1 + 1
    assert result == pipeline.run(n=0, checkpoint=Checkpoint(tmp_path / "run")).n
    assert len(calls) == 5


PROGRAM = """
import os, sys
from typing import Annotated
from rag import Channel, Pipeline, operator
from rag.pipelines import Checkpoint, Loop

@operator(deterministic=False)
def step(n: int) -> Annotated[int, Channel("n")]:
    with open(sys.argv[2], "a") as log:
        log.write(f"{n} ")
    if n == 3 and sys.argv[3] == "die":
        os._exit(9)
    return n + 1

print(Pipeline(Loop(step(), at_most=6), inputs={"n": int}).run(n=0, checkpoint=Checkpoint(sys.argv[1])).n)
"""


def test_a_killed_run_runs_nothing_twice_that_was_finished(tmp_path: Path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "run"), str(tmp_path / "log")]
    assert subprocess.run([*command, "die"], env=os.environ).returncode == 9
    done = subprocess.run([*command, "live"], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "6"
    assert (tmp_path / "log").read_text() == "0 1 2 3 3 4 5 "


def test_the_trace_says_what_was_remembered():
    cache = ContentCache()
    pipeline = Pipeline(Slow(), inputs=N, cache=cache)
    pipeline.run(n=1)
    run = Run()
    pipeline.run(n=1, observe=run)
    assert [span.remembered for span in run.spans if span.kind == "operator"] == [1]
