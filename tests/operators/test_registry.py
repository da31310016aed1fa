"""Operators of other packages come in through entry points."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from rag.errors import NotFoundError
from rag.operators import catalogue, lookup, registry
from rag.pipelines import Pipeline


def test_entry_points_register_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "their_operators.py").write_text(
        "from rag import Operator, Query, Answer\n"
        "class Theirs(Operator, name='generation.theirs'):\n"
        '    """Says hello."""\n'
        "    def run(self, query: Query) -> Answer:\n"
        "        return Answer('hello ' + query.text)\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("theirs", "their_operators", "rag.operators")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == "rag.operators" else [])
    monkeypatch.setattr(registry, "_loaded", False)
    monkeypatch.setattr(registry, "_operators", dict(registry._operators))
    try:
        assert lookup("theirs").operator_name == "generation.theirs"
        assert Pipeline.from_yaml("flow:\n  - theirs\n").run("you").answer.text == "hello you"
    finally:
        sys.modules.pop("their_operators", None)


def test_yaml_cannot_name_what_is_not_registered():
    with pytest.raises(NotFoundError, match="no operator is named 'os.system'"):
        lookup("os.system")


def test_every_operator_is_documented():
    for name, cls in catalogue().items():
        if name.startswith(("testing.", "custom.")):
            continue
        assert cls.__doc__, name
        assert cls.__doc__ != cls.__base__.__doc__, f"{name} has no docstring of its own"
        for setting, field in cls.model_fields.items():
            assert field.description, f"{name}.{setting} has no description"
