"""The catalogue of operators as a page of the documentation, made from the operators themselves."""

from __future__ import annotations

import inspect
import re

from rag.operators import Operator, catalogue
from rag.operators.registry import MODULES
from rag.operators.signature import show_type
from rag.pipelines.flows import FORMS

__all__ = ["catalogue_page"]

_HEAD = """\
# Operators

All operators and flows, as `rag operators --markdown` prints them. Settings are given as `setting: type = default`.
"""


def catalogue_page() -> str:
    """The Markdown page: every operator with what it does, reads, needs, writes, and its settings; then the flows."""
    parts = [_HEAD]
    operators = [cls for name, cls in catalogue().items() if name.partition(".")[0] in MODULES]
    for module in MODULES:
        parts.append(f"## {module.replace('_', '-').capitalize()}\n")
        parts += [_entry(cls) for cls in operators if cls.operator_name.startswith(module + ".")]
    parts.append("## Flows\n")
    parts.append(
        "`a >> b` (a list in YAML) and `a | b` (`parallel`) arrange operators. A `Pipeline` (`pipeline`: a file, a "
        "ready-made\nname, or a pipeline written out) is a part like any other. These hold flows inside:\n"
    )
    for name, form in FORMS.items():
        parts.append(f"### {name}\n\n{_prose(form)}\n\n{_settings(form)}\n")
    return "\n".join(parts)


def _entry(cls: type[Operator]) -> str:
    signature = cls.signature()
    reads = [f"`{r.channel}`" + ("" if r.required else "?") + f" {show_type(r.type)}" for r in signature.reads]
    writes = [f"`{w.channel}` {show_type(w.type)}" for w in signature.writes]
    needs = [f"`{r.channel}`" + ("" if r.required else "?") for r in signature.resources]
    flow = f"Reads {', '.join(reads) or 'nothing'}; writes {', '.join(writes) or 'nothing'}."
    if needs:
        flow += f" Needs {', '.join(needs)}."
    return f"### {cls.operator_name}\n\n{_prose(cls)}\n\n{flow}\n\n{_settings(cls)}\n"


def _prose(cls: type) -> str:
    """The docstring, with indented examples fenced."""
    text = inspect.cleandoc(cls.__doc__ or "")
    return re.sub(r"(?m)((?:^ {4}.*\n?)+)", lambda m: "```text\n" + inspect.cleandoc(m[1]) + "\n```\n", text)


def _settings(cls: type) -> str:
    lines = []
    for name, field in cls.model_fields.items():  # type: ignore[attr-defined]
        default = "" if field.is_required() else f" = {_short(field.get_default(call_default_factory=True))}"
        lines.append(f"- `{name}: {show_type(field.annotation)}{default}`: {field.description}")
    return "\n".join(lines) or "No settings."


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
