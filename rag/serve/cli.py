"""The command line `rag`: what the commands share, and how errors are told.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 other error, 2 wrong usage,
setting or pipeline, 3 something does not exist, 4 the collection cannot be used, 5 a model failed, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import rag
from rag.errors import (
    CollectionError,
    ConfigError,
    InputError,
    MissingExtraError,
    ModelError,
    NotFoundError,
    RagError,
)
from rag.serve import asking, caching, evaluation, filtering, hubs, indexing, keeping, pipelines, profiling, serving

__all__ = ["app", "main"]

EXIT_CODES: list[tuple[type[RagError], int]] = [
    (NotFoundError, 3),
    (CollectionError, 4),
    (ModelError, 5),
    (ConfigError, 2),
    (InputError, 2),
    (MissingExtraError, 2),
]

app = typer.Typer(
    name="rag",
    help="Index documents, search them, ask them, and run pipelines over them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (indexing, keeping, profiling, asking, pipelines, evaluation, filtering, hubs, caching, serving):
    module.add_to(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"modular-rag {rag.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line; errors that a user can mend are told in a line or two, without a traceback."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        app(arguments, prog_name="rag")
    except SystemExit as end:  # how the command line library ends, well or with a usage error
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        # Whoever read our output (head, say) has enough; keep the interpreter from complaining when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RagError as error:
        where = f"node {error.node!r}: " if error.node else ""
        typer.secho("error: ", fg=typer.colors.RED, bold=True, err=True, nl=False)
        typer.echo(where + error.message, err=True)
        if error.hint:
            typer.echo(f"  {error.hint}", err=True)
        return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)
    return 0
