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
    from rag.evaluate.calibration import ScorerFigures
    from rag.evaluate.candidates import Find
    from rag.evaluate.relevance import Comparison
    from rag.pipelines import Pipeline
    from rag.relevance import Method, Recipe

__all__ = ["add_to"]


class Mapping(str, Enum):
    """How an adapter maps a cosine."""

    linear = "linear"
    sqrt = "sqrt"
    quadratic = "quadratic"
    power = "power"


K = Annotated[int, typer.Option("-k", min=2, max=1000, help="Candidates of a query: what will be retrieved.")]
MappingOption = Annotated[Mapping, typer.Option(help="How adapters map a cosine to a logit.")]
Scorers = Annotated[
    list[str],
    typer.Option(
        "--scorer",
        help="NAME=PIPELINE: calibrate the hits of a pipeline as well, as those of the scorer NAME. Or dense, bm25 or "
        "maxsim: these alone; without it all three, as far as the collection has them. Repeatable.",
    ),
]

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
    scorer: Scorers = [],  # noqa: B006
    name: Annotated[str, typer.Option(help="Name of the model in the collection.")] = "default",
    seed: Seed = 0,
    json_out: Json = False,
) -> None:
    """Train a relevance filter and keep it in the collection, for the operators relevance_filter and calibrate.

    From labels, or without any from questions made of the chunks themselves. Chunks of a document that is not labelled
    for a query count as not relevant to it. Adapters need the extra `local` (torch) to be trained, and not to be used.
    """
    from rag.collection import Collection
    from rag.evaluate.candidates import find_candidates, fit_scorers
    from rag.operators.post_retrieval.relevance_files import model_path
    from rag.relevance import save_models
    from rag.serve import show

    with Collection.open(kb) as collection, show.Progress() as progress:
        path = model_path(name, collection)
        asked = labelled_queries(collection, labels, queries, qrels, synthetic, llm, seed)
        found = find_candidates(collection, asked, _scorers(scorer, collection, k), progress)
        made = labels is None and queries is None
        recipe = _recipe(mapping, seed)
        fitted = fit_scorers(found, methods=_methods(), recipe=recipe, synthetic=made, progress=progress)
        save_models(fitted.models.values(), path)
    for one, reason in fitted.left_out.items():
        show.stderr().print(f"[yellow]{one} is left out: {reason}[/]")
    if json_out:
        told = {one: {"best": model.best, "k": model.k, **model.about} for one, model in fitted.models.items()}
        show.print_json({"model": str(path), "scorers": told})
        return
    show.stdout().print(f"[bold green]{path}[/]: of {len(found)} queries; PR AUC on queries held out:")
    for one, model in fitted.models.items():
        others = ", ".join(f"{method} {value:.3f}" for method, value in model.about["pr_auc"].items())
        show.stdout().print(f"  [bold]{one}[/]: best is {model.best} [dim]({others})[/]")


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
    scorer: Scorers = [],  # noqa: B006
    target_recall: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of what is relevant to keep.")] = 0.95,
    html: Annotated[Path | None, typer.Option(help="File for a page with the table and plots.")] = None,
    seed: Seed = 0,
    json_out: Json = False,
) -> None:
    """Compare all ways to filter by relevance on labelled queries, by cross-validation, and recommend one.

    Then how well the probabilities of each scorer hold, and whether its lists tell that nothing is relevant. Nothing is
    kept. Labels are as for `rag filter train`; figures on questions made of the chunks say less.
    """
    from rag.collection import Collection
    from rag.evaluate.calibration import compare_scorers
    from rag.evaluate.candidates import find_candidates
    from rag.evaluate.relevance import compare
    from rag.serve import show

    recipe = _recipe(mapping, seed)
    with Collection.open(kb) as collection, show.Progress() as progress:
        asked = labelled_queries(collection, labels, queries, qrels, synthetic, llm, seed)
        candidates = find_candidates(collection, asked, _scorers(scorer, collection, k), progress)
        first = next(iter(candidates.hits))
        methods = [m for m in _methods() if first == "dense" or "adapter" not in m]
        lists = candidates.lists(first)
        found = compare(lists, methods=methods, recipe=recipe, target_recall=target_recall, progress=progress)
        scorers = compare_scorers(candidates, recipe=recipe, progress=progress)
    if html is not None:
        from rag.serve.filter_page import filter_page

        html.write_text(filter_page(f"Relevance filters for {kb}", found, scorers), encoding="utf-8")
    if json_out:
        facts = {"queries": found.queries, "relevant": found.relevant, "candidates": found.candidates}
        rows = [{f: getattr(one, f) for f in ("scorer", "raw", "pr_auc", "ece", "unanswerable")} for one in scorers]
        shown = {**facts, "recommended": found.recommended, "figures": found.figures, "scorers": rows}
        show.print_json(shown)
    else:
        _print(found, scorers)


def _scorers(named: list[str], collection: Collection, k: int) -> dict[str, Find]:
    """The searches that are calibrated, by name."""
    from rag.evaluate.candidates import scorers_of
    from rag.serve.config import load_config
    from rag.serve.pipelines import open_pipeline

    known = scorers_of(collection, k)
    chosen = {name: known[name] for name in named if name in known}
    for name in named:
        own, separator, pipeline = name.partition("=")
        if separator and own not in (*known, "fused", ""):
            ready = open_pipeline(pipeline, llm=load_config().llm)
            ready.resources["collection"] = collection
            chosen[own] = _finder(ready, k)
        elif name not in known:
            raise ConfigError(
                f"--scorer {name!r} is none of {', '.join(known)}", hint="or NAME=PIPELINE, by a name of its own"
            )
    return chosen if any("=" not in name for name in named) else {**known, **chosen}


def _finder(pipeline: Pipeline, k: int) -> Find:
    return lambda queries: [state["hits"].top(k) for state in pipeline.run_batch(queries)]


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


def _print(found: Comparison, scorers: list[ScorerFigures]) -> None:
    from rich.table import Table

    from rag.serve import show
    from rag.serve.filter_page import COLUMNS, SCORER_COLUMNS, cells, scorer_cells

    console = show.stdout()
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in COLUMNS:
        title = heading + (f"{found.target_recall:.0%}" if heading.endswith("@") else "")
        table.add_column(title, justify="left" if heading == "method" else "right", header_style="dim", no_wrap=True)
    for one in found.figures:
        table.add_row(*cells(one), style="bold green" if one.method == found.recommended else None)
    console.print(table)
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in SCORER_COLUMNS:
        table.add_column(heading, justify="left" if heading == "scorer" else "right", header_style="dim", no_wrap=True)
    for scored in scorers:
        table.add_row(*scorer_cells(scored))
    console.print(table)
    told = f"{found.queries} queries, {found.relevant} of {found.candidates} candidates relevant"
    console.print(f"[bold green]{found.recommended}[/] is recommended: the simplest that is within 2 % of the best")
    console.print(f"[dim]{told}; figures of queries that were held out[/]")


def add_to(app: typer.Typer) -> None:
    app.add_typer(commands)
