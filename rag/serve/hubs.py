"""Commands against hubs, the chunks that come up for far too many questions: see them, and correct for them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rag.errors import ConfigError
from rag.serve.indexing import KB, Json
from rag.serve.labelling import Count, Labels, Llm, Qrels, Queries, Seed, labelled_queries

if TYPE_CHECKING:
    from rag.collection import Collection
    from rag.evaluate.hubness import HubStudy
    from rag.relevance.training import Progress

__all__ = ["add_to"]

K = Annotated[int, typer.Option("-k", min=10, max=1000, help="Candidates of a question that are put in order.")]
Most = Annotated[int, typer.Option(min=20, max=50_000, help="Known questions at most; of more, a sample is used.")]

commands = typer.Typer(
    name="hubs", help="Hubs, chunks that come up too often: see them, and correct for them.", no_args_is_help=True
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
    most: Most = 5000,
    name: Annotated[str, typer.Option(help="Name of the bank in the collection.")] = "default",
    seed: Seed = 0,
    json_out: Json = False,
) -> None:
    """Keep known questions in the collection, for the operator hubness_norm, and find which correction helps, if any.

    Labels are as for `rag filter train`, best from a log of what was really asked. Each half of the questions is
    corrected by the other half, and a correction is chosen only when it is better than none by more than chance. With
    --queries alone, which have no labels, and with questions made of the chunks none is chosen.
    """
    from rag.collection import Collection
    from rag.index.hubness_file import save_hubness
    from rag.operators.post_retrieval.hubness_norm import hubness_path
    from rag.serve import show

    with Collection.open(kb) as collection, show.Progress() as progress:
        path = hubness_path(name, collection)
        found = _study(collection, (labels, queries, qrels, synthetic, llm), k, most, seed, progress)
        model = found.model(collection.encoder_fingerprint, seed)
        save_hubness(model, path)
    if json_out:
        show.print_json({"model": str(path), "best": found.best.name, **model.about})
    else:
        show.stdout().print(f"[bold green]{path}[/]: {found.queries} questions; {_told(found)}")


@commands.command()
def report(
    kb: KB,
    labels: Labels = None,
    queries: Queries = None,
    qrels: Qrels = None,
    synthetic: Count = 1000,
    llm: Llm = None,
    k: K = 100,
    most: Most = 5000,
    hubs: Annotated[int, typer.Option(min=0, max=10, help="Largest hubs to show.")] = 5,
    seed: Seed = 0,
    json_out: Json = False,
) -> None:
    """Show how common hubs are among the ten nearest chunks of questions, before and after each correction.

    Nothing is kept. Questions are as for `rag hubs train`, and each half of them is corrected by the other half.
    """
    from rag.collection import Collection
    from rag.serve import show

    with Collection.open(kb) as collection, show.Progress() as progress:
        found = _study(collection, (labels, queries, qrels, synthetic, llm), k, most, seed, progress)
        chunks = collection.chunks(found.trials[0].report.hubs[:hubs])
    shown = [(chunk.document, " ".join(chunk.text.split())) for chunk in chunks]
    if not json_out:
        _print(found, shown)
        return
    trials = [{"name": trial.name, **show.as_json(trial)} for trial in found.trials]
    facts = {"queries": found.queries, "labelled": found.labelled, "best": found.best.name}
    largest = [{"document": document, "text": text} for document, text in shown]
    show.print_json({**facts, "trials": trials, "hubs": largest})


def _study(
    collection: Collection,
    named: tuple[Path | None, Path | None, Path | None, int, str | None],
    k: int,
    most: int,
    seed: int,
    progress: Progress,
) -> HubStudy:
    from rag.evaluate.hubness import study_hubs

    if collection.metric != "cosine":
        raise ConfigError(
            f"hubs are corrected in cosines, and {collection.path} scores by {collection.metric!r}",
            hint="index into a collection with metric 'cosine'",
        )
    labels, queries, *_ = named
    asked = labelled_queries(collection, *named, seed, unlabelled=True)
    if len(asked) > most:
        asked = random.Random(seed).sample(asked, most)  # noqa: S311  (not for secrets)
    return study_hubs(collection, asked, k, seed, progress, made=labels is None and queries is None)


def _told(found: HubStudy) -> str:
    none, best = found.trials[0], found.best
    if none.ndcg is None or best.ndcg is None:
        return "none is chosen, since without labels it is not known what helps; say a kind"
    if found.made:
        return "none is chosen, since what helps questions made of the chunks may harm real ones; say a kind"
    if best is none:
        return "none is better than the cosine by more than chance, and hubness_norm changes nothing"
    return f"{best.name}: nDCG@10 {none.ndcg:.3f} → {best.ndcg:.3f} (p = {best.p:.2g})"


def _print(found: HubStudy, hubs: list[tuple[str, str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from rag.serve import show

    console = show.stdout()
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("correction", "skewness", "top 1 %", "never", "largest", "nDCG@10", "first", "apart", "p"):
        table.add_column(heading, justify="left" if heading == "correction" else "right", header_style="dim")
    for trial in found.trials:
        own = trial.report
        quality = ["" if value is None else f"{value:.3f}" for value in (trial.ndcg, trial.first)]
        cells = [f"{own.skewness:.2f}", f"{own.hub_share:.1%}", f"{own.never:.1%}", str(own.places[0]), *quality]
        apart = "" if trial.apart is None or trial.kind == "none" else f"{trial.apart:+.3f}"
        p = "" if trial.kind == "none" or trial.ndcg is None else f"{trial.p:.3f}"
        table.add_row(trial.name, *cells, apart, p, style="bold green" if trial is found.best else None)
    console.print(table)
    console.print(f"[bold]{_told(found)}[/]")
    facts = f"{found.queries} questions, {found.labelled} with a labelled chunk among their candidates"
    console.print(f"[dim]{facts}; each half corrected by the other half[/]")
    console.print("[dim]apart: nDCG@10, difference without the chunks that answer known questions[/]")
    for (document, text), before, after in zip(hubs, found.trials[0].places, found.best.places, strict=False):
        change = f"{before}" if found.best is found.trials[0] else f"{before} → {after}"
        room = max(console.width - len(document) - len(change) - 16, 20)
        console.print(f"[bold]{change}[/] × [cyan]{escape(document)}[/]  {escape(text[:room])}")


def add_to(app: typer.Typer) -> None:
    app.add_typer(commands)
