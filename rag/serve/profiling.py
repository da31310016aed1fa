"""The command profile: what the vectors of a collection are like, and which index suits them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rag.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.collection import Collection
    from rag.index.profile import Profile
    from rag.index.recommend import Recommendation

__all__ = ["add_to"]


class _Vectors:
    """The stored vectors of a collection, read when they are asked for by row."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._ids = collection.chunk_ids()
        self.shape = (len(self._ids), collection.dim)

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.float32]:
        return self._collection.vectors(self._ids[rows])


def profile(
    kb: Annotated[Path, typer.Argument(help="The collection's folder.", metavar="KB")],
    queries: Annotated[
        Path | None, typer.Option(help="Questions like those that will be asked: a text file, one a line.")
    ] = None,
    recall: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Share of the 10 nearest that a search should find.")
    ] = 0.99,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the sample.")] = 0,
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the vectors of a collection, and recommend an index for them.

    Reads all vectors once; the figures are of a sample, and the same for the same seed. Changes nothing.
    """
    from rag.collection import Collection
    from rag.index.profile import profile as measure
    from rag.index.recommend import recommend
    from rag.serve import show

    texts = None if queries is None else _lines(queries)
    with Collection.open(kb) as collection:
        if not len(collection):
            raise ConfigError(f"{kb} holds no vectors to look at", hint=f"rag index {kb} PATH")
        asked = None if texts is None else collection.encoder.encode_queries(texts)
        with show.Progress() as progress:
            figures = measure(_Vectors(collection), asked, collection.info().metric, seed=seed, progress=progress)
    advice = recommend(figures, recall=recall)
    if json_out:
        show.print_json({"collection": str(kb), "profile": figures, "recommendation": advice})
    else:
        _print(figures, advice)


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {str(path)!r}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text: {error}") from error
    questions = [line for line in lines if line]
    if not questions:
        raise ConfigError(f"{path} holds no questions", hint="write one a line")
    return questions


def _print(figures: Profile, advice: Recommendation) -> None:
    from rich.table import Table

    from rag.serve import show

    console = show.stdout()
    table = Table(box=None, show_header=False)
    for name, value in _rows(figures):
        table.add_row(f"[dim]{name}[/]", value)
    console.print(table)

    codecs = Table(box=None, padding=(0, 2))
    codecs.add_column("codec", header_style="dim")
    for title in ("recall@10", "expected of all", "bytes a vector", "of them scanned"):
        codecs.add_column(title, justify="right", header_style="dim")
    for codec in figures.codecs:
        chosen = codec.codec == advice.codec
        cells = (
            codec.codec,
            f"{codec.recall:.4f}",
            f"{codec.expected:.4f}",
            f"{codec.bytes:.0f}",
            f"{codec.scanned:.0f}",
        )
        codecs.add_row(*cells, style="bold" if chosen else None)
    console.print(codecs)

    inserted = "" if advice.kind == "scan" else f", inserted in {advice.order} order"
    console.print(f"[bold green]{advice.kind} with codec {advice.codec}{inserted}[/]")
    for reason in advice.reasons:
        console.print(f"  {reason}", markup=False)


def _rows(figures: Profile) -> list[tuple[str, str]]:
    f, asked = figures, figures.queries
    low, middle, high = f.local_range
    few, more, most = f.directions
    rows = [
        ("vectors", f"{f.count} of {f.dim} numbers, {f.metric}; figures of {f.sampled} of them"),
        ("local dimension", f"{f.local_dimension:.1f}; {low:.1f}, {middle:.1f}, {high:.1f} at 10, 50, 90 % of them"),
        ("directions", f"{few}, {more}, {most} hold 90, 95, 99 % of the variance; participation {f.participation:.1f}"),
        ("contrast", f"{f.contrast:.4g} times as far to any vector as to the nearest"),
        ("hubness", f"{f.hubness:.2f}, the skewness of being among the 10 nearest of others"),
        ("lengths", f"{f.norm_mean:.4g} +- {f.norm_variation:.1%}, the largest {f.norm_peak:.2f} x the median"),
        ("copies", f"{f.duplicates:.2%} repeat another vector"),
        ("succession", f"{f.succession:.2f} times as far to the next as to any"),
    ]
    if asked is not None:
        told = f"{asked.count}, {asked.distance:.2f} times as far from their nearest as vectors are"
        rows.append(("queries", f"{told}; {asked.far:.0%} farther than 95 % of these"))
    return rows


def add_to(app: typer.Typer) -> None:
    app.command()(profile)
