"""Commands that look after a collection: info, upgrade, repair."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rag.serve.indexing import KB, Codec, Json, TokenCodecOption, TokenEncoder, TokenPool

if TYPE_CHECKING:
    from rag.collection.info import Info

__all__ = ["add_to"]


def info(
    kb: KB,
    verify: Annotated[bool, typer.Option("--verify", help="Read and check everything that is stored.")] = False,
    json_out: Json = False,
) -> None:
    """Show what a collection holds and how; with --verify, check every byte of it."""
    from rich.table import Table

    from rag.collection import Collection
    from rag.serve import show

    with Collection.open(kb) as collection:
        facts = collection.info()
        report = collection.verify() if verify else None
        fields = collection.fields()
    if json_out:
        show.print_json({**show.as_json(facts), "fields": fields, "verified": report})
    else:
        table = Table(box=None, show_header=False)
        sizes = ", ".join(f"{part} {size / 1e6:.1f} MB" for part, size in facts.bytes.items())
        for name, value in (
            ("documents", facts.documents),
            ("chunks", f"{facts.chunks} in {facts.segments} segments ({facts.deleted} deleted, not yet merged away)"),
            ("generation", f"{facts.generation}, of {facts.updated:%Y-%m-%d %H:%M:%S} UTC"),
            ("encoder", f"{facts.encoder}, {facts.dim} dimensions, {facts.metric}"),
            ("tokens", _tokens_kept(kb, facts)),
            ("engine", facts.engine or "our own"),
            ("vectors", "\n".join(_kept(facts))),
            ("words", facts.language),
            ("size", sizes),
            ("metadata", ", ".join(fields) or "-"),
        ):
            table.add_row(f"[dim]{name}[/]", str(value))
        show.stdout().print(table)
        if report is not None and report.ok:
            show.stdout().print(
                f"[green]all {report.files} files, {report.documents} documents and their chunks are sound[/]"
            )
    if report is not None and not report.ok:
        from rag.errors import DamagedFileError

        raise DamagedFileError("\n".join(report.problems), hint=f"rag repair {kb}")


def _tokens_kept(kb: Path, facts: Info) -> str:
    kept = facts.token_vectors
    if kept is None:
        return "none: one vector a chunk"
    pooled = f", one for every {kept.pool_factor} tokens" if kept.pool_factor > 1 else ""
    told = (
        f"{kept.vectors} of {kept.encoder}{pooled}, {kept.dim} dimensions, {kept.codec}, "
        f"{kept.bytes_per_vector:.0f} bytes each"
    )
    if kept.missing:
        told += f"\n{kept.missing} of {facts.chunks} chunks have none yet: rag upgrade {kb} --multi-vector goes on"
    return told


def _kept(facts: Info) -> list[str]:
    """How vectors are kept: what was asked for, and a line for each segment."""
    from rag.index.recommend import RECALL

    lines = [f"codec {facts.codec}" + (": each segment decides by itself" if facts.codec == "auto" else "")]
    for one in facts.indexes:
        told = f"{one.kind} of {one.chunks} in {one.codec}, {one.bytes_per_vector:.0f} bytes a vector"
        if one.tombstones:
            told += f", {one.tombstones} tombstones"
        if one.degree is not None:
            told += f", up to {one.degree} links each"
        if one.effort is not None:
            far = one.effort.effort(RECALL)
            told += f"; recall@10 {max(one.effort.recalls):.4f} at best, " + (
                f"{RECALL} by {far.expanded:.0f} steps" if far else f"scanned for {RECALL}"
            )
        lines.append(told)
    return lines


def upgrade(
    kb: KB,
    codec: Annotated[
        Codec | None,
        typer.Option(
            help="How it keeps vectors from now on: auto (if left out) goes by their number; others are scanned."
        ),
    ] = None,
    multi_vector: Annotated[
        bool, typer.Option("--multi-vector", help="Encode the chunks again, to keep a vector for each token as well.")
    ] = False,
    token_encoder: TokenEncoder = None,
    token_pool: TokenPool = None,
    token_codec: TokenCodecOption = None,
    json_out: Json = False,
) -> None:
    """Keep the vectors of a collection as this release would, or in another codec; or add token vectors to them.

    Segments are written anew one by one, and readers go on meanwhile. An interrupted run goes on where it was.
    """
    from rag.collection import Collection
    from rag.operators.indexing.ingest import indexed_texts
    from rag.serve import show

    tokens = multi_vector or any(option is not None for option in (token_encoder, token_pool, token_codec))
    rewritten = encoded = 0
    with Collection.open(kb) as collection:
        with show.Progress() as progress:
            if tokens:
                encoded = collection.add_tokens(
                    token_encoder,
                    pool_factor=token_pool,
                    codec=None if token_codec is None else token_codec.value,
                    texts=indexed_texts(collection),
                    progress=progress,
                )
            if codec is not None or not tokens:
                rewritten = collection.upgrade((codec or Codec.auto).value, progress=progress)
        facts = collection.info()
    if json_out:
        told = {"collection": str(kb), "rewritten": rewritten, "encoded": encoded}
        show.print_json({**told, "indexes": facts.indexes, "token_vectors": facts.token_vectors})
        return
    console = show.stdout()
    if tokens:
        console.print(f"[bold]{encoded} of {facts.segments} segments given token vectors[/]")
        console.print(_tokens_kept(kb, facts), markup=False)
    if codec is not None or not tokens:
        console.print(f"[bold]{rewritten} of {facts.segments} segments written anew[/]")
        console.print("\n".join(_kept(facts)), markup=False)


def repair(kb: KB, json_out: Json = False) -> None:
    """Make damaged index files anew from the stored text; what cannot be saved is told."""
    from rag.collection import Collection
    from rag.operators.indexing.ingest import indexed_texts
    from rag.serve import show

    with Collection.open(kb, repair=True) as collection:
        report = collection.rebuild(texts=indexed_texts(collection))
    if json_out:
        show.print_json(report)
    elif report.ok:
        show.stdout().print(f"[green]{kb} is sound: {report.documents} documents, {report.chunks} chunks[/]")
    else:
        show.stdout().print("\n".join(report.problems), markup=False)


def add_to(app: typer.Typer) -> None:
    for command in (info, upgrade, repair):
        app.command()(command)
