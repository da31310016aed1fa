"""Small operators on numbers and texts, enough to see what a flow does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Annotated, NamedTuple

import pytest
from pydantic import Field

from rag.operators import Channel, Operator, operator
from rag.types import Answer, Delta, Query

pytest.register_assert_rewrite("tests.pipelines.shapes")

Number = Annotated[int, Channel("n")]


class Add(Operator, name="testing.add"):
    """Add to the number n."""

    by: int = Field(1, ge=-100, le=100, description="what to add")

    def run(self, n: int) -> Number:
        return n + self.by


class AddInBatches(Operator, name="testing.add_in_batches"):
    """Add to the number n, and remember the sizes of the batches."""

    by: int = 1

    def run(self, n: int) -> Number:
        return self.run_batch([n])[0]

    def run_batch(self, n: list[int]) -> list[int]:
        batch_sizes.append(len(n))
        return [value + self.by for value in n]


batch_sizes: list[int] = []


class AddAsync(Operator, name="testing.add_async"):
    """Add to the number n, after a moment."""

    by: int = 1

    async def run(self, n: int) -> Number:
        await asyncio.sleep(0)
        return n + self.by


class Total(Operator, name="testing.total"):
    """Join branches: the sum of their numbers."""

    def run(self, n: list[int]) -> Number:
        return sum(n)


class Split(NamedTuple):
    n: int
    topic: str


class CountWords(Operator, name="testing.count_words"):
    """The number of words, and the first word as topic."""

    def run(self, query: Query) -> Split:
        words = query.text.split()
        return Split(len(words), words[0] if words else "")


class Say(Operator, name="testing.say"):
    """Say the topic n times, word by word."""

    def run(self, n: int, topic: str = "nothing") -> Generator[Delta, None, Answer]:
        for _ in range(n):
            yield Delta(topic + " ")
        return Answer((topic + " ") * n)


class SayAsync(Operator, name="testing.say_async"):
    """Say the topic n times, word by word, as an async stream."""

    async def run(self, n: int, topic: str) -> AsyncIterator[Delta | Answer]:
        for _ in range(n):
            yield Delta(topic + " ")
        yield Answer((topic + " ") * n)


class SayIterator(Operator, name="testing.say_iterator"):
    """Say the topic n times, the result as last item."""

    def run(self, n: int, topic: str) -> Iterator[Delta | Answer]:
        for _ in range(n):
            yield Delta(topic + " ")
        yield Answer((topic + " ") * n)


class Fail(Operator, name="testing.fail"):
    """Fail with an error that is not ours."""

    def run(self, n: int) -> Number:
        raise ZeroDivisionError(f"n was {n}")


class Meet(Operator, name="testing.meet", waits=True):
    """Wait until two branches are here at the same time."""

    def run(self, n: int) -> Number:
        meeting.wait(timeout=10)
        return n


meeting = threading.Barrier(2)


@operator(name="testing.shout")
def shout(query: Query, *, marks: int = 1) -> Query:
    """Put exclamation marks behind the question."""
    return Query(query.text + "!" * marks)
