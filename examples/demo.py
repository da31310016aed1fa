"""The tour that `make demo` takes: index real documents, then ask about them, offline and without a language model.

The documents are this project's own guides, the Python language reference that comes with every CPython, and the
documentation of the networkx and numpy functions that are installed.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.rule import Rule

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
QUESTIONS = [
    "When is the finally clause executed?",
    "What does the with statement do?",
    "How are equal scores ordered when rankings are fused?",
    "What does PageRank compute?",
    "Who won the football world cup in 1974?",
]


def gather_documents(folder: Path) -> int:
    """Write the documents below `folder`; returns how many there are. Files that are right already stay untouched."""
    texts: dict[str, str] = {}
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        texts[f"guides/{path.name}"] = path.read_text(encoding="utf-8")
    for topic, text in importlib.import_module("pydoc_data.topics").topics.items():
        texts[f"python/{topic}.rst"] = text
    for name in ("networkx", "numpy", "numpy.linalg"):
        module = importlib.import_module(name)
        for public, value in inspect.getmembers(module, callable):
            text = inspect.getdoc(value)
            if not public.startswith("_") and text and len(text) > 400:
                texts[f"{name}/{public}.rst"] = f"{name}.{public}\n\n{text}\n"
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
    subprocess.run([str(program), *arguments], check=True, cwd=ROOT)
    console.print(f"[dim]{time.perf_counter() - began:.2f} s, start-up included[/]")


def main() -> None:
    console = Console(highlight=False)
    if sys.argv[1:] == ["--clean"]:
        shutil.rmtree(DEMO, ignore_errors=True)
    console.print(Rule("modular-rag: from a folder of documents to a cited answer"))
    count = gather_documents(DEMO / "documents")
    console.print(f"{count} real documents are in demo/documents: guides, the Python reference, networkx, numpy.")
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
