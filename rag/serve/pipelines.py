"""Commands about pipelines: run one, check one, the schema of their files, the operators there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rag.errors import NotFoundError, did_you_mean

__all__ = ["add_to", "open_pipeline", "preset_names"]

PRESETS = Path(__file__).parent.parent / "pipelines" / "presets"


def preset_names() -> list[str]:
    """Names of the ready-made pipelines."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def find_pipeline(name: str) -> Path:
    """The file of a pipeline: a path, or the name of a ready-made one. Raises NotFoundError."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    if name in preset_names():
        return PRESETS / f"{name}.yaml"
    hint = did_you_mean(name, preset_names())
    raise NotFoundError(f"{name!r} is neither a pipeline file nor a ready-made pipeline", hint=hint)


def open_pipeline(name: str, **resources: Any) -> Any:
    """The pipeline of a file or preset, with those resources that are not None."""
    from rag.pipelines import Pipeline

    return Pipeline.from_yaml(find_pipeline(name), **{k: v for k, v in resources.items() if v is not None})


def run(
    pipeline: Annotated[str, typer.Argument(help="A pipeline file, or the name of a ready-made pipeline.")],
    question: Annotated[str, typer.Argument(help="The question; `-` reads one a line from standard input.")],
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Collection to use instead of the one that the file names.")
    ] = None,
    llm: Annotated[str | None, typer.Option(help="Language model to use, e.g. openai:gpt-4o-mini.")] = None,
    where: Annotated[str | None, typer.Option("--filter", "-f", help="Metadata expression to search within.")] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show how the run went, as a tree.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print all channels as JSON, one line a question.")] = False,
) -> None:
    """Run a pipeline on a question and show what it ends with."""
    import sys

    from rag.pipelines import Run
    from rag.serve import show
    from rag.serve.config import load_config
    from rag.types import Query

    ready = open_pipeline(pipeline, collection=collection, llm=llm or load_config().llm)
    texts = [line.strip() for line in sys.stdin if line.strip()] if question == "-" else [question]
    observe = Run() if trace else None
    try:
        states = ready.run_batch([Query(text, where) for text in texts], observe=observe)
    except BaseException:
        if observe is not None:
            show.print_trace(observe.spans)  # a run that failed is the one that one wants to see
        raise
    for state in states:
        if json_out:
            show.print_json(state)
        elif "answer" in state:
            show.print_answer(state["answer"])
        elif "hits" in state:
            show.print_hits(state["hits"].top(10), state["query"].text, {})
        else:
            show.stdout().print({name: show.as_json(value) for name, value in state.items() if name != "query"})
    if observe is not None:
        show.print_trace(observe.spans)


def check(
    pipeline: Annotated[str, typer.Argument(help="A pipeline file, or the name of a ready-made pipeline.")],
    json_out: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Check a pipeline without running it or loading any model, and show its plan."""
    from rag.serve import show

    ready = open_pipeline(pipeline)
    if json_out:
        plan, warnings = ready.explain().splitlines(), list(ready.plan.warnings)
        show.print_json({"pipeline": pipeline, "ok": True, "warnings": warnings, "plan": plan})
    else:
        show.stdout().print(ready.explain(), markup=False)
        count = len(ready.plan.warnings)
        remark = f", with {count} warning{'s' if count > 1 else ''}" if count else ""
        show.stderr().print(f"[{'yellow' if count else 'green'}]{pipeline} fits together{remark}[/]")


def draw(
    pipeline: Annotated[str, typer.Argument(help="A pipeline file, or the name of a ready-made pipeline.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead of printing.")] = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Mermaid text instead of SVG.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print the picture as a JSON string.")] = False,
) -> None:
    """Draw a pipeline as an SVG picture, or as Mermaid text; needs no web service and no other program."""
    from rag.serve import show

    ready = open_pipeline(pipeline)
    text = ready.mermaid() if mermaid else ready.svg() + "\n"
    if output is not None:
        output.write_text(text, encoding="utf-8")
    elif json_out:
        show.print_json({"pipeline": pipeline, "mermaid" if mermaid else "svg": text})
    else:
        typer.echo(text, nl=False)


def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead of printing.")] = None,
    json_out: Annotated[bool, typer.Option("--json", help="A schema is JSON in any case.", hidden=True)] = False,
) -> None:
    """Print the JSON Schema of pipeline files, with which editors complete and check them.

    Put `# yaml-language-server: $schema=pipeline.schema.json` on the first line of a pipeline file.
    """
    from rag.pipelines.schema import pipeline_schema

    text = json.dumps(pipeline_schema(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def operators(
    name: Annotated[str | None, typer.Argument(help="An operator to show with its settings.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the whole catalogue as a Markdown page.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the operators, or show one with its settings and channels."""
    from rich.table import Table

    from rag.operators import catalogue, lookup
    from rag.operators.signature import show_type
    from rag.serve import show

    if markdown:
        from rag.serve.catalogue import catalogue_page

        typer.echo(catalogue_page(), nl=False)
        return
    chosen = [lookup(name)] if name else list(catalogue().values())
    rows = []
    for cls in chosen:
        signature = cls.signature()
        rows.append(
            {
                "name": cls.operator_name,
                "summary": (cls.__doc__ or "").strip().split("\n")[0],
                "reads": {r.channel: show_type(r.type) for r in signature.reads},
                "needs": [r.channel for r in signature.resources],
                "writes": {w.channel: show_type(w.type) for w in signature.writes},
                "settings": cls.model_json_schema().get("properties", {}),
            }
        )
    if json_out:
        show.print_json(rows[0] if name else rows)
        return
    console = show.stdout()
    if not name:
        table = Table("operator", "what it does", "reads", "writes", box=None, header_style="bold")
        for row in rows:
            table.add_row(row["name"], row["summary"], ", ".join(row["reads"]), ", ".join(row["writes"]))
        console.print(table)
        return
    import inspect

    console.print(f"[bold]{rows[0]['name']}[/]\n")
    console.print(inspect.cleandoc(chosen[0].__doc__ or ""), markup=False)
    table = Table("setting", "type", "default", "meaning", box=None, header_style="bold")
    for key, item in chosen[0].model_fields.items():
        default = "required" if item.is_required() else repr(item.get_default(call_default_factory=True))
        table.add_row(key, show_type(item.annotation), default, item.description or "")
    console.print(table)
    console.print(f"\nreads {', '.join(rows[0]['reads']) or '-'}; writes {', '.join(rows[0]['writes']) or '-'}")


def add_to(app: typer.Typer) -> None:
    for command in (run, check, draw, schema, operators):
        app.command()(command)
