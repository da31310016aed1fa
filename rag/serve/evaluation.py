"""Command that measures pipelines on a data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag.errors import FlowError
from rag.serve.indexing import TokenEncoder, TokenPool

if TYPE_CHECKING:
    from rag.pipelines import Pipeline
    from rag.types import Query

__all__ = ["add_to"]

RANKING, ANSWERS = ("nDCG@10", "Recall@100", "RR"), ("EM", "F1")


def evaluate(
    dataset: Annotated[str, typer.Argument(help="Folder in BEIR layout, or the name of one below RAG_DATA.")],
    pipelines: Annotated[list[str], typer.Argument(help="Pipeline files or names of ready-made pipelines.")],
    measure: Annotated[
        list[str],
        typer.Option("--measure", "-m", help="nDCG@10, Recall@100, RR, AP, ... or EM, F1; repeatable."),
    ] = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="Which judgements to use.")] = "test",
    sample: Annotated[int | None, typer.Option(min=1, help="Use so many questions, always the same ones.")] = None,
    baseline: Annotated[str | None, typer.Option(help="Pipeline to compare with; the first one when left out.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder of the documents.")] = None,
    multi_vector: Annotated[
        bool,
        typer.Option("--multi-vector", help="Keep token vectors too, even if no pipeline is seen to work by them."),
    ] = False,
    token_encoder: TokenEncoder = None,
    token_pool: TokenPool = None,
    llm: Annotated[str | None, typer.Option(help="Language model, for pipelines that need one.")] = None,
    per_query: Annotated[Path | None, typer.Option(help="File for one JSON line for each pipeline and query.")] = None,
    intervals: Annotated[bool, typer.Option("--intervals", help="Show 95 % bootstrap intervals of the means.")] = False,
    trained_on: Annotated[
        str | None,
        typer.Option(
            help="The split that something in the pipelines was trained on: also judge apart the half of the questions "
            "that is near those (interpolation) and the other one (extrapolation)."
        ),
    ] = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON, per-query values included.")] = False,
) -> None:
    """Measure pipelines on a data set and compare them, with significance.

    The documents are indexed once, one chunk each, and kept in the user's cache; with token vectors where one of the
    pipelines ranks by late interaction. What several pipelines have in common is computed once, so the times of the
    later ones leave that out.
    """
    from rag.encoders import DEFAULT, load_multi_vector
    from rag.evaluate import collection_of, find
    from rag.evaluate import evaluate as measure_runs
    from rag.evaluate.halves import halves
    from rag.pipelines import ContentCache
    from rag.serve import show
    from rag.serve.config import load_config
    from rag.serve.pipelines import open_pipeline

    config = load_config()
    data = find(dataset, split)
    if sample is not None:
        data = data.sample(sample)
    ready = {name: open_pipeline(name, llm=llm or config.llm) for name in pipelines}
    answering = [name for name, pipeline in ready.items() if "answer" in pipeline.outputs]
    measures = tuple(measure) or (ANSWERS if len(answering) == len(ready) else RANKING)
    channel = "answer" if set(measures) <= set(ANSWERS) else "hits"
    made_by = encoder or config.encoder or DEFAULT
    tokens = None
    if multi_vector or token_encoder or token_pool or any(pipeline.uses_tokens for pipeline in ready.values()):
        tokens = load_multi_vector(token_encoder or made_by, pool_factor=token_pool or 1)
    with collection_of(data, encoder=made_by, tokens=tokens, progress=not json_out) as collection:
        cache = ContentCache() if len(ready) > 1 else None
        runs = {}
        for name, pipeline in ready.items():
            pipeline.resources["collection"] = collection
            pipeline.cache = cache
            runs[name] = _runner(name, pipeline, channel)
        report = measure_runs(runs, data, measures)
        parts = None if trained_on is None else halves(data, find(dataset, trained_on), collection.encoder)
    if per_query is not None:
        with per_query.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in report.rows())
    if json_out:
        content = json.loads(report.to_json(baseline))
        if parts is not None:
            content["extrapolation"] = parts.as_json(report)
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
        return
    show.stdout().print(report.table(baseline, intervals=intervals))
    if parts is not None:
        show.stdout().print(parts.table(report, baseline))


def _runner(name: str, pipeline: Pipeline, channel: str) -> Callable[[Sequence[Query]], Any]:
    if channel not in pipeline.outputs:
        raise FlowError(
            f"pipeline {name!r} does not end with {channel!r}, which the measures judge",
            hint="ask for EM and F1 of pipelines that answer, for ranking measures of those that retrieve",
        )
    return lambda queries: [state[channel] for state in pipeline.run_batch(queries)]


def add_to(app: typer.Typer) -> None:
    app.command("eval")(evaluate)
