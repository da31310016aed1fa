"""Options that name labelled questions, and the questions that they name: what commands share that fit to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rag.errors import ConfigError

if TYPE_CHECKING:
    from rag.collection import Collection
    from rag.evaluate.judgements import LabelledQuery

__all__ = ["Count", "Labels", "Llm", "Qrels", "Queries", "Seed", "labelled_queries"]

Labels = Annotated[
    Path | None,
    typer.Option(help="Judgements or clicks: .jsonl or .csv with query, document, label (above 0: relevant)."),
]
Queries = Annotated[Path | None, typer.Option(help="queries.jsonl in BEIR layout, together with --qrels.")]
Qrels = Annotated[Path | None, typer.Option(help="Judgements of these queries: a TSV file in BEIR layout.")]
Count = Annotated[int, typer.Option(min=20, help="Without labels: chunks that questions are made of.")]
Llm = Annotated[str | None, typer.Option(help="Without labels: the language model that writes the questions.")]
Seed = Annotated[int, typer.Option(min=0, help="Deals out queries and chooses chunks.")]


def labelled_queries(
    collection: Collection,
    labels: Path | None,
    queries: Path | None,
    qrels: Path | None,
    synthetic: int,
    llm: str | None,
    seed: int,
    *,
    unlabelled: bool = False,
) -> list[LabelledQuery]:
    """The questions that the options name, or without any made of the chunks; with `unlabelled`, --queries alone will
    do. Raises ConfigError for options that do not go together, and what reading the files raises."""
    from rag.evaluate.judgements import read_labels, read_qrels, read_queries, synthetic_queries
    from rag.models import load
    from rag.serve.config import load_config

    alone = qrels is None and not unlabelled
    if (queries is None and qrels is not None) or (queries is not None and (alone or labels is not None)):
        raise ConfigError(
            "labels are not named as they should be", hint="--labels FILE, or --queries FILE --qrels FILE"
        )
    if labels is not None:
        return read_labels(labels)
    if queries is not None:
        return read_queries(queries) if qrels is None else read_qrels(queries, qrels)
    model = llm or load_config().llm
    return synthetic_queries(collection, synthetic, seed, None if model is None else load(model))
