"""Pipelines to serve: operators that answer without a model, wait, fail, count, and one with every kind of flow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Annotated, Literal

from rag.collection import Collection
from rag.errors import ModelError
from rag.operators import Channel, Flow, Operator
from rag.operators.retrieval import BM25, Dense, Fuse
from rag.pipelines import Each, Loop, Pipeline, Route
from rag.types import Answer, Citation, Context, Delta, Hits, Message, Passage, Query

gate = threading.Event()
"""Held operators wait for it; tests set and clear it."""
entered = threading.Semaphore(0)
"""Released by every held operator as it begins to wait."""
batches: list[int] = []
"""The sizes of the batches that `count_batches` saw."""


class Passages(Operator, name="testing.passages"):
    """Number the best hits as passages."""

    most: int = 3

    def run(self, hits: Hits, collection: Collection) -> Context:
        chunks = hits.top(self.most).chunks()
        lines = collection.lines([(c.document, c.start) for c in chunks])
        return Context(
            tuple(
                Passage(n, c.id, c.document, c.text, c.start, c.end, line, float(score), c.metadata)
                for n, (c, line, score) in enumerate(zip(chunks, lines, hits.scores, strict=False), 1)
            )
        )


class QuoteSentence(Operator, name="testing.quote_sentence"):
    """Answer with the sentence of the passages that shares most words with the question, word by word."""

    def run(self, query: Query, context: Context, memory: list[Message] | None = None) -> Iterator[Delta | Answer]:
        wanted = {w.strip("?.,").lower() for w in query.text.split()}
        best, most, where = "", -1, None
        for passage in context:
            for sentence in passage.text.replace("\n", " ").split(". "):
                shared = len(wanted & {w.strip("?.,").lower() for w in sentence.split()})
                if shared > most:
                    best, most, where = sentence, shared, passage
        if where is None:
            yield Answer("Nothing was found.", found=False)
            return
        for word in best.split():
            yield Delta(word + " ")
        start = where.start + where.text.replace("\n", " ").index(best)
        citation = Citation(where.number, where.chunk, where.document, start, start + len(best), where.line, best)
        yield Answer(f"{best} [{where.number}]", (citation,))


class ByLength(Operator, name="testing.by_length"):
    """Long questions go one way, short ones another."""

    def run(self, query: Query) -> Annotated[Literal["short", "long"], Channel("route")]:
        return "long" if len(query.text.split()) > 4 else "short"


class SplitAnd(Operator, name="testing.split_and"):
    """One question for each part between `and`."""

    def run(self, query: Query) -> list[Query]:
        return [Query(part.strip(), query.filter) for part in query.text.split(" and ")]


class Widen(Operator, name="testing.widen"):
    """Repeat the last word of the question, as if it were rewritten."""

    def run(self, query: Query) -> Query:
        return Query(f"{query.text} {query.text.split()[-1].strip('?')}", query.filter)


class Enough(Operator, name="testing.enough"):
    """Whether the second round is over."""

    def run(self, context: Context, round: int) -> Annotated[bool, Channel("enough")]:
        return round >= 2


class Hold(Operator, name="testing.hold", waits=True):
    """Wait until the gate opens."""

    def run(self, query: Query) -> Query:
        entered.release()
        gate.wait(timeout=20)
        return query


class Sleep(Operator, name="testing.sleep", waits=True):
    """Wait for a moment, as for a model."""

    seconds: float = 0.02

    def run(self, query: Query) -> Query:
        time.sleep(self.seconds)
        return query


class Echo(Operator, name="testing.echo"):
    """Answer with the question."""

    def run(self, query: Query) -> Answer:
        return Answer(query.text)


class CountBatches(Operator, name="testing.count_batches"):
    """Answer with the question, note the size of the batch, refuse questions that say so."""

    def run(self, query: Query) -> Answer:
        return self.run_batch([query])[0]

    def run_batch(self, query: list[Query]) -> list[Answer]:
        batches.append(len(query))
        if any("bad" in q.text for q in query):
            raise ModelError("the model refuses", hint="ask something else")
        return [Answer(q.text) for q in query]


class Spill(Operator, name="testing.spill"):
    """Fail with an exception that holds a secret."""

    def run(self, query: Query) -> Answer:
        raise RuntimeError("the key is sk-1234567890")


def retrieve(k: int = 20) -> Flow:
    return (Dense(k=k) | BM25(k=k)) >> Fuse(k=k)


def hybrid(kb: Collection) -> Pipeline:
    return Pipeline(retrieve(), collection=kb, name="hybrid", description="Finds passages.")


def quoting(kb: Collection) -> Pipeline:
    flow = retrieve() >> Passages() >> QuoteSentence()
    return Pipeline(flow, collection=kb, name="quoting", description="Answers with a sentence of the documents.")


def every_flow(kb: Collection) -> Pipeline:
    searching = Loop(Widen() >> retrieve() >> Passages(), until=Enough(), at_most=3) >> QuoteSentence()
    several = SplitAnd() >> Each(Dense(k=10)) >> Fuse(k=10) >> Passages() >> QuoteSentence()
    flow = Route(ByLength(), short=several, long=searching)
    return Pipeline(flow, collection=kb, name="routed", description="Short questions are split, long ones widened.")
