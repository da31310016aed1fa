"""What the shapes of pipelines have in common: small operators, and one test of all ways to run them.

The shapes are those that people build elsewhere; the list follows what Haystack's acceptance tests name
(deepset-ai/haystack, pipeline_run.feature). Flows, operators and numbers are our own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from rag.operators import Channel, Flow, Operator, operator
from rag.pipelines import NodeStarted, Pipeline
from rag.types import Answer, Hits, Message, Query
from tests.pipelines.test_flows import N, every_way

Number = Annotated[int, Channel("n")]
VALUE = {"value": int}
QUESTION = {"query": Query}


@dataclass(frozen=True)
class Shape:
    """A flow, what a run is given, what it ends with (among others), and its operators in the order they run."""

    flow: Flow
    given: dict[str, Any]
    expected: dict[str, Any]
    order: str
    inputs: dict[str, Any] = field(default_factory=lambda: N)


def check(shape: Shape) -> None:
    """Every way to run gives what is expected, in that order; items that go the same way are one step."""
    pipeline = Pipeline(shape.flow, inputs=shape.inputs)
    for state in every_way(pipeline, shape.given):
        assert {channel: state[channel] for channel in shape.expected} == shape.expected
    started = [event.node for event in pipeline.stream(shape.given) if isinstance(event, NodeStarted)]
    assert started == shape.order.split()


@operator(name="testing.double")
def double(n: int) -> Number:
    return 2 * n


@operator(name="testing.start")
def start(value: int) -> Number:
    return value


@operator(name="testing.third")
def third(n: int) -> Annotated[Literal["0", "1", "2"], Channel("route")]:
    """The remainder by three."""
    return str(n % 3)  # type: ignore[return-value]


@operator(name="testing.divisible")
def divisible(n: int, *, by: int = 3) -> Annotated[bool, Channel("divides")]:
    return n % by == 0


@operator(name="testing.stay")
def stay(n: int) -> Number:
    return n


@operator(name="testing.plus")
def plus(n: int, extra: int = 10) -> Number:
    """An input that may be missing."""
    return n + extra


@operator(name="testing.extra")
def extra(n: int) -> Annotated[int, Channel("extra")]:
    return 100 * n


class Parts(NamedTuple):
    n: int
    rest: int


@operator(name="testing.halve")
def halve(n: int) -> Parts:
    return Parts(n // 2, n % 2)


@operator(name="testing.rest_text")
def rest_text(rest: int) -> Annotated[str, Channel("text")]:
    return f"rest {rest}"


@operator(name="testing.default_only")
def default_only(n: int | None = None, seen: int | None = None) -> Annotated[int, Channel("seen")]:
    """Everything it reads may be missing."""
    return (n or 0) + (seen or 0) + 1


@operator(name="testing.words")
def words(query: Query, *, first: bool = True) -> Annotated[str, Channel("word")]:
    return query.text.split()[0 if first else -1]


@operator(name="testing.concat")
def concat(word: list[str]) -> Annotated[str, Channel("text")]:
    return " ".join(word)


@operator(name="testing.reply")
def reply(n: int) -> Answer:
    return Answer(f"it is {n}")


@operator(name="testing.join_answers")
def join_answers(answer: list[Answer]) -> Answer:
    return Answer(" and ".join(a.text for a in answer))


@operator(name="testing.listed")
def listed(n: int) -> Annotated[list[int], Channel("items")]:
    return [n]


@operator(name="testing.lengthen")
def lengthen(items: list[int]) -> Annotated[list[int], Channel("items")]:
    return [*items, len(items)]


@operator(name="testing.count_items")
def count_items(items: list[list[int]]) -> Number:
    return sum(len(i) for i in items)


class Scale(Operator, name="testing.scale"):
    """Its settings decide what it does."""

    factors: dict[str, int] = Field(default_factory=dict)

    def run(self, n: int) -> Number:
        for factor in self.factors.values():
            n *= factor
        return n


@operator(name="testing.act")
def act(query: Query, memory: list[Message] | None = None) -> list[Message]:
    """One step of an agent: it remembers what it did."""
    done = memory or []
    return [*done, Message("assistant", f"step {len(done) + 1}")]


@operator(name="testing.finished")
def finished(memory: list[Message]) -> Annotated[bool, Channel("finished")]:
    return len(memory) >= 3


@operator(name="testing.settle")
def settle(n: int | None = None, *, otherwise: int = 7) -> Number:
    """What is there, else what its settings say."""
    return otherwise if n is None else n


@operator(name="testing.say_words")
def say_words(word: list[str] | None = None, *, otherwise: str = "nothing") -> Annotated[str, Channel("text")]:
    """The words that are there, else what its settings say."""
    return " ".join(word or [otherwise])


@operator(name="testing.ends")
def ends(query: Query) -> Ends:
    """The first and the last word."""
    words = query.text.split()
    return Ends(words[0], words[-1])


class Ends(NamedTuple):
    first: str
    last: str


@operator(name="testing.praise")
def praise(first: str, last: str) -> Annotated[str, Channel("text")]:
    """Reads both results of one operator."""
    return f"{first} and {last}"


@operator(name="testing.ramp")
def ramp(n: int) -> Hits:
    """Hits 0 to n - 1, the last one best."""
    return Hits(np.arange(n)[::-1], np.arange(n)[::-1])


@operator(name="testing.best")
def best(hits: Hits) -> Number:
    """The id of the best hit."""
    return int(hits.ids[0])


@operator(name="testing.draft")
def draft(query: Query, feedback: str | None = None) -> Answer:
    """Writes, and takes what was said about the last try to heart."""
    return Answer(query.text if feedback is None else f"{query.text}, {feedback}")


@operator(name="testing.criticise")
def criticise(answer: Answer, feedback: str | None = None) -> Annotated[str, Channel("feedback")]:
    """Asks for one more polite word each time."""
    missing = [word for word in ("please", "thank you") if word not in answer.text]
    return ", ".join([feedback] * bool(feedback) + missing[:1])


@operator(name="testing.polite")
def polite(answer: Answer) -> Annotated[bool, Channel("polite")]:
    """Whether there is nothing to be asked for."""
    return "please" in answer.text and "thank you" in answer.text


@operator(name="testing.tool")
def tool(memory: list[Message] | None = None) -> Annotated[Literal["search", "write"], Channel("route")]:
    """An agent's choice: it searches first, then writes."""
    return "write" if memory else "search"


@operator(name="testing.search")
def search(query: Query) -> list[Message]:
    """Puts what is found into the memory."""
    return [Message("tool", f"facts about {query.text}")]


@operator(name="testing.write")
def write(memory: list[Message] | None = None) -> Answer:
    """Answers from what is remembered."""
    return Answer(f"from {memory[-1].content}" if memory else "from nothing")


@operator(name="testing.answered")
def answered(answer: Answer | None = None) -> Annotated[bool, Channel("answered")]:
    """Whether there is an answer."""
    return answer is not None


@operator(name="testing.kind")
def kind(query: Query) -> Annotated[Literal["text", "table", "other"], Channel("route")]:
    """The kind of a file by its ending."""
    ending = query.text.rpartition(".")[2]
    return {"md": "text", "csv": "table"}.get(ending, "other")  # type: ignore[return-value]


@operator(name="testing.convert")
def convert(query: Query, *, to: str) -> Annotated[str, Channel("word")]:
    """The file in another form."""
    return f"{to}({query.text})"
