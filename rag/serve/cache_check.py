"""The command that finds out how far cached chunks may be reused on a collection."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rag.errors import ConfigError, InputError, NotFoundError
from rag.serve.asking import By
from rag.serve.indexing import KB, Json

if TYPE_CHECKING:
    from rag.collection import Collection
    from rag.kvcache import Segment
    from rag.kvcache.verdict import Verdict
    from rag.models import PrefillingModel
    from rag.operators.generation import Generate

__all__ = ["check", "local_model"]

_SHARES = (0.1, 0.2, 0.4)


def check(
    kb: KB,
    llm: Annotated[str | None, typer.Option(help="The local model, local:NAME; that of rag.yaml if left out.")] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="Questions to try: one a line, or a queries.jsonl in BEIR layout. Made of chunks if left out."
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Questions at most.")] = 100,
    passages: Annotated[int, typer.Option("-k", min=1, help="Passages of a prompt, as for `rag ask`.")] = 5,
    by: By = None,
    prompt: Annotated[str, typer.Option(help="The prompt file that answers are asked with.")] = "answer",
    quality: Annotated[
        str, typer.Option(help="The agreement that the verdict is told for, agreement=SHARE.")
    ] = "agreement=0.95",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the answers' beginnings that are compared.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Chooses questions and chunks.")] = 0,
    json_out: Json = False,
) -> None:
    """Compare answers from cached chunks with answers of a full prefill, and keep the verdict in the collection.

    Pipelines and `rag ask` with this model and prompt then reuse chunks as far as their `quality` is shown by it. Takes
    a few full prefills a question.
    """
    from rag.collection import Collection
    from rag.kvcache import Agreement
    from rag.kvcache.quality import as_quality
    from rag.kvcache.verdict import keep_verdict
    from rag.operators.generation import Generate
    from rag.serve import show
    from rag.serve.config import load_config

    asked = as_quality(quality)
    if not isinstance(asked, Agreement):
        raise ConfigError(f"--quality {quality} leaves nothing to be shown", hint="write agreement=SHARE")
    model = local_model(llm or load_config().llm)
    generate = Generate(prompt=prompt)
    with Collection.open(kb) as collection, show.Progress() as progress:
        texts = _questions(collection, questions, count, seed)
        prompts = _prompts(collection, texts, model, generate, by, passages)
        verdict = _verdict(model, generate, prompts, tokens, progress)
        path = keep_verdict(collection.path, verdict)
    chosen = verdict.strategy(asked.share)
    if json_out:
        rows = [{**asdict(one), "agreement": one.agreement, "interval": one.interval} for one in verdict.findings]
        told = None if chosen is None else chosen.name
        show.print_json({"verdict": str(path), "quality": str(asked), "strategy": told, "findings": rows})
        return
    _print(verdict)
    if chosen is None:
        show.stdout().print(f"[bold yellow]{asked}[/] is not shown by any: only exact prefixes are reused")
    else:
        show.stdout().print(f"[bold green]{asked}[/] is shown: chunks are reused by {chosen}")
    show.stdout().print(f"[dim]{path}[/]")


def local_model(spec: str | None) -> PrefillingModel:
    """The model of that name, which must run in this process; ConfigError otherwise."""
    from rag.models import can_prefill, load

    if spec is None:
        raise ConfigError("no language model is named", hint="--llm local:NAME")
    model = load(spec)
    if not can_prefill(model):
        raise ConfigError(
            f"the keys and values of {spec} are out of reach", hint="take a model that runs in this process, local:NAME"
        )
    return model  # type: ignore[return-value]


def _questions(collection: Collection, file: Path | None, count: int, seed: int) -> list[str]:
    """The first of a file, or such as are made of the collection's chunks."""
    from rag.evaluate.judgements import read_queries, synthetic_queries

    if file is None:
        texts = [query.text for query in synthetic_queries(collection, count, seed)]
    elif file.suffix == ".jsonl":
        texts = [query.text for query in read_queries(file)]
    elif file.is_file():
        texts = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        raise NotFoundError(f"there is no file {str(file)!r}")
    if not texts:
        raise InputError(f"there are no questions in {file or collection.path}")
    return texts[:count]


def _prompts(
    collection: Collection,
    questions: list[str],
    model: PrefillingModel,
    generate: Generate,
    by: By,
    passages: int,
) -> list[list[Segment]]:
    """The prompts that these questions are answered with, in segments; none where nothing is found."""
    from rag.kvcache.hosting import segments_of
    from rag.operators.prompts import load_prompt
    from rag.pipelines import Pipeline
    from rag.serve.asking import passages_for
    from rag.types import Query

    template = load_prompt(generate.prompt, generate.prompts)
    queries = [Query(text) for text in questions]
    found = Pipeline(passages_for(collection, by, passages), collection=collection, llm=model).run_batch(queries)
    prompts = []
    for query, state in zip(queries, found, strict=True):
        if state.context.passages:
            turns, _ = generate.fitted(template, query, state.context, [], model)
            prompts.append(segments_of(model, turns))
    if not prompts:
        raise InputError(f"nothing is found in {collection.path} for any of {len(questions)} questions")
    return prompts


def _verdict(
    model: PrefillingModel, generate: Generate, prompts: list[list[Segment]], tokens: int, progress: object
) -> Verdict:
    from rag.kvcache.agreement import compare
    from rag.kvcache.hosting import manager_of
    from rag.kvcache.quality import by_share
    from rag.kvcache.strategies import Naive, Prefix
    from rag.kvcache.verdict import Verdict
    from rag.operators.generation.reading import template_of
    from rag.operators.prompts import load_prompt

    manager = manager_of(model, Prefix())
    if manager.support.reuse != "chunks":
        raise ConfigError(
            f"{model.name} does not let chunks be reused: {manager.support.reason}",
            hint="quality exact is all there is",
        )
    strategies = [Naive(), *(by_share(share) for share in _SHARES)]
    findings = compare(manager, prompts, strategies, tokens=tokens, progress=progress)  # type: ignore[arg-type]
    template = template_of(load_prompt(generate.prompt, generate.prompts), generate.not_found, model)
    chunks = max(sum(segment.kind == "chunk" for segment in prompt) for prompt in prompts)
    return Verdict(manager.known_as, template, chunks, tuple(findings))


def _print(verdict: Verdict) -> None:
    from rich.table import Table

    from rag.serve import show

    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("strategy", "same first token", "90 % interval", "KL", "same text", "work", "time"):
        table.add_column(heading, justify="left" if heading == "strategy" else "right", header_style="dim")
    for one in verdict.findings:
        settings = ", ".join(f"{name} {value}" for name, value in one.settings.items() if value is not None)
        low, high = one.interval
        cells = [f"{one.agreement:.3f}", f"{low:.3f}-{high:.3f}", f"{one.kl:.4f}", f"{one.equal_texts:.3f}"]
        table.add_row(f"{one.strategy} {settings}".strip(), *cells, f"{one.work:.2f}", f"{one.time:.2f}")
    console = show.stdout()
    console.print(table)
    told = f"{verdict.findings[0].prompts} prompts of up to {verdict.chunks} chunks"
    console.print(f"[dim]{told}; work and time to the first token as shares of a full prefill, chunks cached before[/]")
