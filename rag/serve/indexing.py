"""The command that makes a collection of files, and keeps it in step with them: index."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag.errors import ConfigError

if TYPE_CHECKING:
    from rag.collection import Collection
    from rag.collection.info import Info
    from rag.operators.indexing.ingest import IndexProgress, IndexReport
    from rag.operators.indexing.settings import IndexSettings

__all__ = ["KB", "Codec", "Json", "TokenCodec", "TokenCodecOption", "TokenEncoder", "TokenPool", "add_to"]

KB = Annotated[Path, typer.Argument(help="The collection's folder.", metavar="KB")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Chunker(str, Enum):
    """Ways to cut documents."""

    auto = "auto"
    recursive = "recursive"
    markdown = "markdown"
    sentences = "sentences"
    fixed_tokens = "fixed_tokens"
    semantic = "semantic"
    code = "code"


class Codec(str, Enum):
    """Ways to keep vectors."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    int8 = "int8"
    lvq8 = "lvq8"
    lvq4x8 = "lvq4x8"
    lvq4x4 = "lvq4x4"
    rabitq1 = "rabitq1"
    rabitq2 = "rabitq2"
    rabitq4 = "rabitq4"
    leanvec = "leanvec"
    leanvec4 = "leanvec4"
    pq = "pq"


class TokenCodec(str, Enum):
    """Ways to keep token vectors."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"
    residual4 = "residual4"
    residual2 = "residual2"
    sign = "sign"


TokenEncoder = Annotated[
    str | None, typer.Option(help="Encoder of the token vectors; the model of the single vectors if left out.")
]
TokenCodecOption = Annotated[
    TokenCodec | None, typer.Option("--token-codec", help="How token vectors are kept; if left out, in 48 bytes or so.")
]

TokenPool = Annotated[
    int | None,
    typer.Option(
        "--token-pool", min=1, help="Keep about one vector for so many tokens of a document: 1, all, if left out."
    ),
]


def index(
    kb: KB,
    paths: Annotated[list[Path], typer.Argument(help="Files and folders to index.", metavar="PATH...")],
    chunker: Annotated[Chunker | None, typer.Option(help="How documents are cut; by their kind when left out.")] = None,
    chunk_size: Annotated[int | None, typer.Option(min=8, help="Tokens of a chunk at most.")] = None,
    overlap: Annotated[int | None, typer.Option(min=0, help="Tokens that neighbouring chunks share.")] = None,
    small_to_big: Annotated[
        bool, typer.Option("--small-to-big", help="Find small chunks, hand over the passage around them.")
    ] = False,
    include: Annotated[list[str], typer.Option(help='Only files that fit this pattern, e.g. "*.md"; repeatable.')] = [],  # noqa: B006
    exclude: Annotated[list[str], typer.Option(help="Not what fits this pattern; repeatable.")] = [],  # noqa: B006
    encoder: Annotated[str | None, typer.Option(help="Encoder of a new collection, e.g. all-MiniLM-L6-v2.")] = None,
    codec: Annotated[
        Codec | None,
        typer.Option(
            help="How a new collection keeps vectors: auto (if left out) goes by their number; others are scanned."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Engine of a new collection: faiss, milvus, or milvus://HOST:PORT/DATABASE; ours if left out."
        ),
    ] = None,
    multi_vector: Annotated[
        bool,
        typer.Option("--multi-vector", help="A new collection keeps token vectors too, for late interaction."),
    ] = False,
    token_encoder: TokenEncoder = None,
    token_pool: TokenPool = None,
    token_codec: TokenCodecOption = None,
    language: Annotated[str, typer.Option(help="Language of a new collection's words, for BM25.")] = "english",
    json_out: Json = False,
) -> None:
    """Bring files and folders into a collection, which is made when it is not there.

    Run it again after files changed: what is unchanged is neither read nor encoded again, what is gone is removed. An
    interrupted run goes on where it was. The settings of the first run stay in force unless they are given again.
    """
    from rag.collection import Collection
    from rag.encoders import DEFAULT, load_multi_vector
    from rag.index.engines import canonical_uri
    from rag.operators.indexing.ingest import index_paths
    from rag.serve import show
    from rag.serve.config import load_config

    for path in paths:
        if not path.exists():
            from rag.errors import NotFoundError

            raise NotFoundError(f"there is no file or folder {str(path)!r}")
    tokens = multi_vector or any(option is not None for option in (token_encoder, token_pool, token_codec))
    if Collection.exists(kb):
        collection = Collection.open(kb)
        facts = collection.info()
        made_with, kept_in = facts.encoder, facts.engine
        if engine is not None and canonical_uri(engine) != kept_in:
            collection.close()
            raise ConfigError(
                f"{kb} was made with {kept_in or 'our own engine'}, not {canonical_uri(engine)}",
                hint="a collection keeps one engine: name a new folder, or leave --engine out",
            )
        if encoder is not None and encoder != made_with:
            collection.close()
            raise ConfigError(
                f"{kb} was made with encoder {made_with!r}, not {encoder!r}",
                hint="a collection keeps one encoder: name a new folder, or leave --encoder out",
            )
        if codec is not None and codec.value != facts.codec:
            collection.close()
            raise ConfigError(
                f"{kb} keeps vectors as {facts.codec!r}, not as {codec.value!r}",
                hint=f"rag upgrade {kb} --codec {codec.value}",
            )
        if tokens:
            _check_tokens(collection, facts, token_encoder, token_pool, token_codec)
    else:
        chosen = encoder or load_config().encoder
        given: dict[str, Any] = {"encoder": chosen} if chosen else {}
        if codec is not None:
            given["codec"] = codec.value
        if tokens:
            given["tokens"] = load_multi_vector(token_encoder or chosen or DEFAULT, pool_factor=token_pool or 1)
        if token_codec is not None:
            given["token_codec"] = token_codec.value
        collection = Collection.create(kb, engine=engine, language=language, **given)
    with collection:
        settings = _settings(collection, chunker, chunk_size, overlap, small_to_big, include, exclude)
        with _progress() as progress:
            report = index_paths(collection, paths, settings=settings, progress=progress)
        if json_out:
            show.print_json({"collection": str(kb), "generation": collection.generation, "report": report})
        else:
            _print_report(collection, report)


def _check_tokens(
    collection: Collection, facts: Info, encoder: str | None, pool: int | None, codec: TokenCodec | None
) -> None:
    """ConfigError unless the collection keeps token vectors, and as is asked for."""
    kept = facts.token_vectors
    if kept is None:
        what = "keeps no token vectors"
    elif encoder is not None and encoder != kept.encoder:
        what = f"keeps token vectors of {kept.encoder!r}, not of {encoder!r}"
    elif pool is not None and pool != kept.pool_factor:
        what = f"keeps a token vector for every {kept.pool_factor} tokens, not for every {pool}"
    elif codec is not None and codec.value != kept.codec:
        what = f"keeps token vectors as {kept.codec!r}, not as {codec.value!r}"
    else:
        return
    collection.close()
    wanted = {"encoder": encoder, "pool": pool, "codec": codec and codec.value}
    options = [f"--token-{name} {value}" for name, value in wanted.items() if value]
    hint = " ".join(["rag upgrade", str(collection.path), "--multi-vector", *options])
    raise ConfigError(f"{collection.path} {what}", hint=hint)


def _settings(
    collection: Collection,
    chunker: Chunker | None,
    size: int | None,
    overlap: int | None,
    small_to_big: bool,
    include: list[str],
    exclude: list[str],
) -> IndexSettings | None:
    """Settings with what was given on the command line; None, which means those of the last run, when nothing was."""
    from rag.operators.indexing import AttachMetadata, SmallToBig
    from rag.operators.indexing.settings import IndexSettings
    from rag.operators.registry import lookup

    other_chunks = small_to_big or any(value is not None for value in (chunker, size, overlap))
    if not (other_chunks or include or exclude):
        return None
    values = dict(collection.settings.get("indexing", {}))
    if other_chunks:
        sizes = {key: value for key, value in (("size", size), ("overlap", overlap)) if value is not None}
        flow = lookup(f"indexing.{chunker.value if chunker else 'auto'}")(**sizes) >> AttachMetadata()
        values["chunker"] = flow >> SmallToBig() if small_to_big else flow
    if include or exclude:
        values["walk"] = {**values.get("walk", {}), "include": tuple(include), "exclude": tuple(exclude)}
    return IndexSettings.model_validate(values)


class _progress:  # noqa: N801  used like a function
    """A progress bar over files on standard error, which `index_paths` calls; silent when that is no terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        from rag.serve import show

        console = show.stderr()
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("files, {task.fields[chunks]} chunks"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, chunks=0)

    def __enter__(self) -> _progress:
        self._bar.start()
        return self

    def __call__(self, state: IndexProgress) -> None:
        self._bar.update(
            self._task,
            completed=state.files,
            total=state.total_files,
            chunks=state.chunks,
            description=state.current or "encoding",
        )

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _print_report(collection: Collection, report: IndexReport) -> None:
    from rag.serve import show

    console, remarks = show.stdout(), show.stderr()
    counts = [
        f"{count} {what}"
        for what in ("added", "changed", "unchanged", "deleted")
        if (count := getattr(report, what)) or what == "added"
    ]
    seconds = sum(report.seconds.values())
    console.print(f"[bold]{', '.join(counts)}[/]; {report.chunks} chunks encoded in {seconds:.1f} s")
    console.print(f"{collection.path} now holds {len(collection.documents())} documents in {len(collection)} chunks")
    if not report.files:
        remarks.print("[yellow]no files were found there[/]")
    if report.skipped:
        kinds = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in report.skipped.most_common(8))
        remarks.print(f"[dim]files without text, left out: {kinds}[/]")
    if report.cut:
        remarks.print(f"[yellow]{report.cut} chunks are longer than the encoder reads[/]; a smaller --chunk-size helps")
    exact = [d for d in report.duplicates if d.exact]
    _list(remarks, "duplicates left out", [f"{d.document} repeats {d.of}" for d in exact])
    near = [f"{d.document} is {d.similarity:.0%} like {d.of}" for d in report.duplicates if not d.exact]
    _list(remarks, "near duplicates", near)
    _list(remarks, "not read", [str(failure) for failure in report.failures])


def _list(console: Any, title: str, lines: list[str], most: int = 5) -> None:
    if lines:
        console.print(f"[yellow]{title}: {len(lines)}[/]")
        for line in lines[:most]:
            console.print(f"  {line}", markup=False)
        if len(lines) > most:
            console.print(f"  and {len(lines) - most} more; --json lists them all")


def add_to(app: typer.Typer) -> None:
    app.command()(index)
