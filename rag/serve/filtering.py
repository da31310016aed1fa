"""Commands for relevance filters: train one for a collection, and compare all methods on one's own labels."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rag.errors import ConfigError
from rag.serve.indexing import KB, Json
from rag.serve.labelling import Count, Labels, Llm, Qrels, Queries, Seed, labelled_queries

if TYPE_CHECKING:
    from rag.collection import Collection
    from rag.evaluate.judgements import LabelledQuery
    from rag.evaluate.relevance import Comparison
    from rag.relevance import CandidateLists, Method, Recipe
    from rag.relevance.training import Progress

__all__ = ["add_to"]


class Mapping(str, Enum):
    """How an adapter maps a cosine."""

    linear = "linear"
    sqrt = "sqrt"
    quadratic = "quadratic"
    power = "power"


K = Annotated[int, typer.Option("-k", min=2, max=1000, help="Candidates of a query: what will be retrieved.")]
MappingOption = Annotated[Mapping, typer.Option(help="How adapters map a cosine to a logit.")]

commands = typer.Typer(
    name="filter", help="Relevance filters: train one, and compare the methods.", no_args_is_help=True
)


@commands.command()
def train(
    kb: KB,
    labels: Labels = None,
    queries: Queries = None,
    qrels: Qrels = None,
    synthetic: Count = 1000,
    llm: Llm = None,
    k: K = 100,
    mapping: MappingOption = Mapping.linear,
    name: Annotated[str, typer.Option(help="Name of the model in the collection.")] = "default",
    seed: Seed = 0,
    json_out: Json = False,
) -> None:
    """Train a relevance filter and keep it in the collection, for the operator relevance_filter.

    From labels, or without any from questions made of the chunks themselves. Chunks of a document that is not labelled
    for a query count as not relevant to it. Adapters need the extra `local` (torch) to be trained, and not to be used.
    """
    from rag.collection import Collection
    from rag.operators.post_retrieval.relevance_files import model_path
    from rag.relevance import fit, save_model
    from rag.serve import show

    with Collection.open(kb) as collection, show.Progress() as progress:
        path = model_path(name, collection)
        lists = _lists(
            collection, labelled_queries(collection, labels, queries, qrels, synthetic, llm, seed), k, progress
        )
        model = fit(
            lists,
            encoder=collection.encoder_fingerprint,
            metric=collection.metric,
            methods=_methods(),
            recipe=_recipe(mapping, seed),
            progress=progress,
        )
        save_model(model, path)
    if json_out:
        show.print_json({"model": str(path), "best": model.best, "k": model.k, **model.about})
    else:
        told = ", ".join(f"{method} {value:.3f}" for method, value in model.about["pr_auc"].items())
        show.stdout().print(f"[bold green]{path}[/]: of {len(lists)} queries, best is {model.best}")
        show.stdout().print(f"[dim]PR AUC on queries held out: {told}[/]")


@commands.command()
def report(
    kb: KB,
    labels: Labels = None,
    queries: Queries = None,
    qrels: Qrels = None,
    synthetic: Count = 1000,
    llm: Llm = None,
    k: K = 100,
    mapping: MappingOption = Mapping.linear,
    target_recall: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of what is relevant to keep.")] = 0.95,
    html: Annotated[Path | None, typer.Option(help="File for a page with the table and plots.")] = None,
    seed: Seed = 0,
    json_out: Json = False,
) -> None:
    """Compare all ways to filter by relevance on labelled queries, by cross-validation, and recommend one.

    Nothing is kept. Labels are as for `rag filter train`; figures on questions made of the chunks say less.
    """
    from rag.collection import Collection
    from rag.evaluate.relevance import compare
    from rag.serve import show

    with Collection.open(kb) as collection, show.Progress() as progress:
        asked = labelled_queries(collection, labels, queries, qrels, synthetic, llm, seed)
        lists = _lists(collection, asked, k, progress)
        found = compare(
            lists, methods=_methods(), recipe=_recipe(mapping, seed), target_recall=target_recall, progress=progress
        )
    if html is not None:
        from rag.serve.filter_page import filter_page

        html.write_text(filter_page(f"Relevance filters for {kb}", found), encoding="utf-8")
    if json_out:
        facts = {"queries": found.queries, "relevant": found.relevant, "candidates": found.candidates}
        show.print_json({**facts, "recommended": found.recommended, "figures": found.figures})
    else:
        _print(found)


def _lists(collection: Collection, queries: list[LabelledQuery], k: int, progress: Progress) -> CandidateLists:
    from rag.evaluate.judgements import candidates

    if collection.metric != "cosine":
        raise ConfigError(
            f"relevance filters read cosines, and {collection.path} scores by {collection.metric!r}",
            hint="index into a collection with metric 'cosine'",
        )
    return candidates(collection, queries, k, progress)


def _methods() -> tuple[Method, ...]:
    """Those that can be fitted here; a remark on the others."""
    from importlib.util import find_spec

    from rag.relevance import METHODS
    from rag.relevance.model import ADAPTERS
    from rag.serve import show

    if find_spec("torch") is not None:
        return METHODS
    show.stderr().print("[yellow]without torch no adapters are trained: pip install 'modular-rag\\[local]'[/]")
    return tuple(method for method in METHODS if method not in ADAPTERS)


def _recipe(mapping: Mapping, seed: int) -> Recipe:
    from rag.relevance import Recipe

    return Recipe(mapping=mapping.value, seed=seed)


def _print(found: Comparison) -> None:
    from rich.table import Table

    from rag.serve import show
    from rag.serve.filter_page import COLUMNS, cells

    console = show.stdout()
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in COLUMNS:
        title = heading + (f"{found.target_recall:.0%}" if heading.endswith("@") else "")
        table.add_column(title, justify="left" if heading == "method" else "right", header_style="dim", no_wrap=True)
    for one in found.figures:
        table.add_row(*cells(one), style="bold green" if one.method == found.recommended else None)
    console.print(table)
    told = f"{found.queries} queries, {found.relevant} of {found.candidates} candidates relevant"
    console.print(f"[bold green]{found.recommended}[/] is recommended: the simplest that is within 2 % of the best")
    console.print(f"[dim]{told}; figures of queries that were held out[/]")


def add_to(app: typer.Typer) -> None:
    app.add_typer(commands)
