"""Commands for cached keys and values of chunks: see them, drop them, compute them ahead, check how far they serve."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rag.errors import ConfigError, NotFoundError
from rag.serve.cache_check import check, local_model
from rag.serve.indexing import KB, Json

if TYPE_CHECKING:
    from rag.collection import Collection
    from rag.kvcache import DiskStore, Segment
    from rag.models import PrefillingModel
    from rag.operators.generation import Generate

__all__ = ["add_to"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)

_KEPT = 0.9
"""Of the budget, what is filled ahead: room must be left for what is asked for."""


class Codec(str, Enum):
    """Ways to keep keys and values on disk."""

    computed = "computed"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


Folder = Annotated[
    Path | None, typer.Argument(help="The folder; the user's own if left out.", metavar="DIR", show_default=False)
]

group = typer.Typer(name="cache", help="Cached keys and values of chunks.", no_args_is_help=True)
group.command()(check)


@group.command()
def info(folder: Folder = None, json_out: Json = False) -> None:
    """Show what a folder of keys and values holds: bytes and tokens by model and codec, and how often it was used."""
    from rag.kvcache import DiskStore
    from rag.kvcache.folder import FolderSettings, user_folder
    from rag.serve import show

    path = folder or user_folder()
    settings = FolderSettings.of(path)
    if not path.is_dir():
        raise NotFoundError(f"no keys and values are kept in {path}", hint="rag cache warm KB computes them ahead")
    budget = None if settings is None else settings.budget
    figures: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for entry in DiskStore(path).entries():
        for place, value in enumerate((1, entry.tokens, entry.nbytes, entry.uses - 1)):
            figures[entry.model, entry.codec][place] += value
    rows = [
        {"model": model, "codec": codec, "entries": n, "tokens": tokens, "bytes": nbytes, "uses": uses}
        for (model, codec), (n, tokens, nbytes, uses) in sorted(figures.items())
    ]
    total = sum(nbytes for _, _, nbytes, _ in figures.values())
    if json_out:
        kept_as = None if settings is None else settings.codec
        show.print_json({"folder": str(path), "budget": budget, "codec": kept_as, "bytes": total, "states": rows})
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("model", "codec", "entries", "tokens", "MB", "uses"):
        table.add_column(heading, justify="left" if heading in ("model", "codec") else "right", header_style="dim")
    for (model, codec), (n, tokens, nbytes, uses) in sorted(figures.items()):
        table.add_row(model[:12], codec, str(n), str(tokens), f"{nbytes / 1e6:.1f}", str(uses))
    console = show.stdout()
    console.print(table)
    told = "not in use: rag cache warm KB sets it up" if settings is None else f"of {settings.budget / 1e6:.0f} MB"
    console.print(f"[bold]{path}[/]: {total / 1e6:.1f} MB {told}")


@group.command()
def clear(folder: Folder = None) -> None:
    """Drop all keys and values of a folder, which then is not used until it is set up again."""
    from rag.kvcache import DiskStore
    from rag.kvcache.folder import FolderSettings, user_folder
    from rag.serve import show

    path = folder or user_folder()
    if not path.is_dir():
        raise NotFoundError(f"no keys and values are kept in {path}")
    FolderSettings.drop(path)
    dropped = DiskStore(path).clear()
    show.stdout().print(f"[bold]{path}[/]: {dropped} entries dropped")


@group.command()
def warm(
    kb: KB,
    llm: Annotated[str | None, typer.Option(help="The local model, local:NAME; that of rag.yaml if left out.")] = None,
    prompt: Annotated[str, typer.Option(help="The prompt file that answers are asked with.")] = "answer",
    budget: Annotated[
        str | None, typer.Option(help="Bytes on disk at most, such as 4GB; as before, or 8GB, if left out.")
    ] = None,
    codec: Annotated[
        Codec | None, typer.Option(help="How keys and values are kept; as before, or as computed, if left out.")
    ] = None,
    json_out: Json = False,
) -> None:
    """Compute keys and values of a collection's chunks ahead, as far as the budget goes, and keep them in the user's
    folder.

    From then on pipelines, `rag ask` and `rag serve` with local models use that folder, and keep there what they
    compute. What is there already is not computed again: an interrupted run goes on where it was.
    """
    from rag.collection import Collection
    from rag.kvcache.folder import FolderSettings, user_folder
    from rag.kvcache.hosting import manager_of
    from rag.kvcache.quality import by_share
    from rag.kvcache.tiers import TieredStore
    from rag.operators.generation import Generate
    from rag.serve import show
    from rag.serve.config import load_config

    model = local_model(llm or load_config().llm)
    folder = user_folder()
    with Collection.open(kb) as collection:
        _set_up(folder, budget, codec)
        settings = FolderSettings.of(folder)
        manager = manager_of(model, by_share(0.15))
        store = manager.store
        if manager.support.reuse != "chunks":
            raise ConfigError(f"{model.name} does not let chunks be reused: {manager.support.reason}")
        if settings is None or not isinstance(store, TieredStore) or store.disk is None:
            raise ConfigError(f"{folder} cannot be used", hint="see the warnings above")
        computed = done = 0
        rate = room = 0.0
        with show.Progress() as progress:
            for instructions, chunk in _prompts(collection, model, Generate(prompt=prompt)):
                length = len(chunk.tokens or ()) * manager.kept_a_chunk
                if done and length * rate > room:
                    break
                computed += manager.warm(instructions, [chunk])
                done += 1
                if not rate:
                    nbytes, tokens = _size_of(store.disk, manager.known_as)
                    rate, room = nbytes / max(tokens, 1), _KEPT * settings.budget
                    if computed:  # the first of all: with it came instructions, and what chunks are rehearsed behind
                        room, length = room - nbytes, 0
                room -= length * rate
                progress("chunks", done, len(collection))
        left = len(collection) - done
    store.close()
    if json_out:
        facts = {"folder": str(folder), "computed": computed, "known": done - computed, "left_out": left}
        show.print_json({**facts, "bytes": store.disk.nbytes, "budget": settings.budget})
        return
    show.stdout().print(f"[bold]{computed}[/] chunks computed, {done - computed} were there; now in {folder}")
    if left:
        show.stderr().print(f"[yellow]{left} chunks are left out: the budget of {settings.budget} bytes is used up[/]")


def _set_up(folder: Path, budget: str | None, codec: Codec | None) -> None:
    from rag.kvcache.folder import FolderSettings

    known = FolderSettings.of(folder) if folder.is_dir() else None
    changes = {} if budget is None else {"budget": _size(budget)}
    chosen = (known or FolderSettings()).model_copy(update=changes | ({} if codec is None else {"codec": codec.value}))
    if chosen != known:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            chosen.keep(folder)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written to: {error.strerror}", hint="RAG_CACHE=DIR") from error


def _prompts(
    collection: Collection, model: PrefillingModel, generate: Generate
) -> Iterator[tuple[list[Segment], Segment]]:
    """For each chunk the instructions that open a prompt, and the chunk as it stands in one; in the chunks' order."""
    import numpy as np

    from rag.kvcache.hosting import segments_of
    from rag.operators.post_retrieval import BuildContext
    from rag.operators.prompts import load_prompt
    from rag.types import Hits, Query

    template = load_prompt(generate.prompt, generate.prompts)
    build = BuildContext(max_passages=1)
    for chunk in collection.chunk_ids():
        context = build.run(Hits([chunk], np.ones(1, np.float32), store=collection), collection, model)
        turns, _ = generate.fitted(template, Query("?"), context, [], model)
        segments = segments_of(model, turns)
        place = next(at for at, segment in enumerate(segments) if segment.kind == "chunk")
        yield segments[:place], segments[place]


def _size_of(disk: DiskStore, model: str) -> tuple[int, int]:
    """Bytes and tokens that are kept of a model."""
    entries = [entry for entry in disk.entries() if entry.model == model]
    return sum(entry.nbytes for entry in entries), sum(entry.tokens for entry in entries)


def _size(text: str) -> int:
    """Bytes, of a number with K, M, G or T behind it."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{text!r} is no number of bytes", hint="write 500MB, 4GB, or the number")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def add_to(app: typer.Typer) -> None:
    app.add_typer(group)
