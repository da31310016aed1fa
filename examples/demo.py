"""The tour that `make demo` takes: index real documents, then ask about them, offline and without a language model.

The documents are this project's own guides, the Python language reference that comes with every CPython, and the
documentation of graph algorithms in the installed networkx. `--small` takes the guides alone.
"""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.rule import Rule

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = [
    "What happens if the finally clause executes a return statement?",
    "What does the PageRank algorithm compute?",
    "What does the join rule say about a channel that only one branch made?",
    "Who won the football world cup in 1974?",
]


def gather_documents(folder: Path, small: bool) -> int:
    """Write the documents below `folder`; returns how many there are. Files that are right already stay untouched."""
    texts: dict[str, str] = {}
    for path in sorted((ROOT / "docs").glob("*.md")):
        texts[f"guides/{path.name}"] = path.read_text(encoding="utf-8")
    if not small:
        for topic, text in importlib.import_module("pydoc_data.topics").topics.items():
            texts[f"python/{topic}.rst"] = text
        for name in ("link_analysis", "shortest_paths", "centrality", "components"):
            module = importlib.import_module(f"networkx.algorithms.{name}")
            for public, value in inspect.getmembers(module, callable):
                text = inspect.getdoc(value)
                if text and len(text) > 1000:
                    texts[f"networkx/{public}.rst"] = f"networkx.{public}\n\n{text}\n"
    for relative, text in texts.items():
        path = folder / relative
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return len(texts)


def rag(console: Console, *arguments: str) -> None:
    """Show and run a command line of `rag`."""
    shown = " ".join(f'"{a}"' if " " in a else a for a in arguments)
    console.print(f"\n[bold green]$[/] [bold]rag {shown}[/]")
    began = time.perf_counter()
    program = Path(sys.executable).with_name("rag")
    subprocess.run([str(program), *arguments], check=True)
    console.print(f"[dim]{time.perf_counter() - began:.2f} s, start-up included[/]")


def main() -> None:
    small = "--small" in sys.argv[1:]
    console = Console(highlight=False)
    console.print(Rule("modular-rag: from a folder of documents to a cited answer"))
    count = gather_documents(Path("demo/documents"), small)
    console.print(f"{count} real documents are in demo/documents.")
    rag(console, "index", "demo/kb", "demo/documents")
    rag(console, "info", "demo/kb")
    rag(console, "search", "demo/kb", "shortest path between two nodes", "-k", "3")
    for question in QUESTIONS:
        rag(console, "ask", "demo/kb", question)
    console.print(Rule())
    console.print('Ask your own:            [bold].venv/bin/rag ask demo/kb "your question"[/]')
    console.print("Index your own folder:   [bold].venv/bin/rag index my-kb path/to/documents[/]")
    console.print("With a language model:   [bold].venv/bin/rag ask demo/kb --llm openai:MODEL@URL ...[/]")


if __name__ == "__main__":
    main()
