"""Commands that answer from a collection: search for chunks, ask for an answer."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rag.errors import InputError

if TYPE_CHECKING:
    from rag.collection import Collection
    from rag.operators import Flow
    from rag.operators.generation.reading import KVCache
    from rag.pipelines import Pipeline

__all__ = ["add_to"]

KB = Annotated[Path, typer.Argument(help="The collection's folder.", metavar="KB")]
Filter = Annotated[
    str | None, typer.Option("--filter", "-f", help="Metadata expression, e.g. 'year >= 2020 and lang == \"en\"'.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Retriever(str, Enum):
    """Ways to find chunks."""

    hybrid = "hybrid"
    dense = "dense"
    bm25 = "bm25"
    maxsim = "maxsim"


Recall = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=1.0,
        help="Share of the nearest vectors to find where a graph is walked: 0.99 if left out.",
    ),
]
By = Annotated[
    Retriever | None,
    typer.Option(
        "--by",
        help="Find by meaning and words together, by one of them, or rank what both find by late interaction (maxsim: "
        "what is done if left out, where the collection keeps token vectors).",
    ),
]


def search(
    kb: KB,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Hits to show.")] = 10,
    by: By = None,
    where: Filter = None,
    recall: Recall = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show which words of a hit matched which of the query."),
    ] = False,
    json_out: Json = False,
) -> None:
    """Find the chunks that fit a query best."""
    from rag.collection import Collection
    from rag.operators.indexing.ingest import indexed_texts
    from rag.operators.post_retrieval import Top
    from rag.pipelines import Pipeline
    from rag.serve import show
    from rag.types import Query

    with Collection.open(kb) as collection:
        flow = retrieve(by or usual(collection), k, recall) >> Top(k=k)
        hits = Pipeline(flow, collection=collection).run(Query(query, where)).hits
        matches = None
        if explain:
            matches = collection.highlights(query, hits.ids, texts=indexed_texts(collection))
        if json_out:
            show.print_json({"query": query, "hits": hits} | ({} if matches is None else {"matches": matches}))
            return
        chunks = hits.chunks()
        lines = dict(
            zip((c.id for c in chunks), collection.lines([(c.document, c.start) for c in chunks]), strict=True)
        )
        show.print_hits(hits, query, lines, matches)


def ask(
    kb: KB,
    question: Annotated[str | None, typer.Argument(help="The question; asks for questions when left out.")] = None,
    llm: Annotated[
        str | None,
        typer.Option(
            help="Language model that writes the answer, e.g. openai:gpt-4o-mini; without one, quotes answer."
        ),
    ] = None,
    passages: Annotated[int, typer.Option("-k", min=1, help="Passages to answer from.")] = 5,
    by: By = None,
    where: Filter = None,
    recall: Recall = None,
    unfiltered: Annotated[
        bool, typer.Option("--unfiltered", help="Answer from the best passages, whether they are relevant or not.")
    ] = False,
    quality: Annotated[
        str,
        typer.Option(
            help="When questions follow each other, how far a local model reuses what it computed of passages: exact "
            "(what prompts begin with alike), agreement=SHARE (as `rag cache check` has shown it), recompute=SHARE."
        ),
    ] = "agreement=0.95",
    json_out: Json = False,
) -> None:
    """Answer a question from the documents, with the places it rests on.

    Where the collection holds a relevance filter (`rag filter train`), passages that are not relevant are left out, and
    where none is, that is the answer.
    """
    from rag.collection import Collection
    from rag.operators.generation import ExtractiveAnswer, Generate
    from rag.pipelines import Pipeline
    from rag.serve.config import load_config

    model = llm or load_config().llm
    with Collection.open(kb) as collection:
        # One question alone finds nothing that an earlier one has left in memory, and would pay for leaving something.
        cached: KVCache = "auto" if question is None else "none"
        answerer: Flow = Generate(kv_cache=cached, quality=quality) if model else ExtractiveAnswer()
        flow = passages_for(collection, by, passages, recall, unfiltered=unfiltered) >> answerer
        pipeline = Pipeline(flow, collection=collection, llm=model).bind()
        if question is not None:
            _answer(pipeline, question, where, json_out)
        else:
            _converse(pipeline, collection, where, json_out)


def passages_for(
    collection: Collection,
    by: Retriever | None,
    passages: int,
    recall: float | None = None,
    *,
    unfiltered: bool = False,
) -> Flow:
    """The flow that finds the passages a question is answered from."""
    from rag.operators.post_retrieval import BuildContext
    from rag.serve.filtered_search import filtered_search

    way = by or usual(collection)
    found = None if unfiltered else filtered_search(collection, way, recall)
    if found is None:
        found = retrieve(way, max(4 * passages, 20), recall)
    return found >> BuildContext(max_passages=passages)


def usual(collection: Collection) -> Retriever:
    """How to find where nobody has said: by late interaction where the collection is ready for it."""
    return Retriever.maxsim if collection.has_tokens else Retriever.hybrid


def retrieve(by: Retriever, k: int, recall: float | None) -> Flow:
    """The flow that finds k candidates in one of these ways."""
    from rag.operators.post_retrieval import MaxSimRerank
    from rag.operators.retrieval import BM25, Dense, Fuse

    given = {} if recall is None else {"recall": recall}
    if by is Retriever.dense:
        return Dense(k=k, **given)
    if by is Retriever.bm25:
        return BM25(k=k)
    both = Dense(k=max(k, 100), **given) | BM25(k=max(k, 100))
    if by is Retriever.maxsim:
        return both >> Fuse(k=max(k, 200)) >> MaxSimRerank(k=k, depth=max(k, 200))
    return both >> Fuse(k=k)


def _answer(pipeline: Pipeline, question: str, where: str | None, json_out: bool) -> None:
    from rich.text import Text

    from rag.pipelines import Finished, Token
    from rag.serve import show
    from rag.types import Query

    if not question.strip():
        raise InputError("the question is empty")
    query = Query(question, where)
    if json_out:
        state = pipeline.run(query)
        about = {name: state[name] for name in ("route", "filtering") if name in state}
        show.print_json({"question": question, "answer": state.answer, **about})
        return
    console = show.stdout()
    streamed = False
    for event in pipeline.stream(query):
        if isinstance(event, Token):
            console.print(Text(event.text), end="")
            streamed = True
        elif isinstance(event, Finished):
            if streamed:
                console.print("\n")
                show.print_citations(event.state.answer)
            else:
                show.print_answer(event.state.answer)
            if "filtering" in event.state:
                show.print_filtering(event.state.route, event.state.filtering)


def _converse(pipeline: Pipeline, collection: Collection, where: str | None, json_out: bool) -> None:
    """Read questions until the input ends."""
    import sys

    from rag.serve import show

    interactive = sys.stdin.isatty()
    if interactive:
        info = collection.info()
        show.stderr().print(f"{info.documents} documents; an empty line or Ctrl-D ends.")
    while True:
        try:
            question = input("? " if interactive else "").strip()
        except EOFError:
            return
        if not question:
            return
        _answer(pipeline, question, where, json_out)


def add_to(app: typer.Typer) -> None:
    for command in (search, ask):
        app.command()(command)
