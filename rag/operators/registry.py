"""Operators by name, `module.operator`, for YAML and the command line.

Other packages add theirs through the entry point group `rag.operators`: each entry names a module, which is imported
when the first name is looked up. YAML can name registered operators only; it never imports anything by itself.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from threading import RLock
from typing import TYPE_CHECKING

from rag.errors import ConfigError, NotFoundError, did_you_mean

if TYPE_CHECKING:
    from rag.operators.base import Operator

__all__ = ["MODULES", "catalogue", "lookup", "register"]

MODULES = ("indexing", "pre_retrieval", "retrieval", "post_retrieval", "generation", "orchestration")
"""The six modules of Modular RAG (arXiv:2407.21059, section 3)."""

_operators: dict[str, type[Operator]] = {}
_loaded = False
_lock = RLock()


def register(name: str, cls: type[Operator]) -> None:
    """Make an operator known under `name`. The same class defined again replaces it; another is a ConfigError."""
    there = _operators.get(name)
    if there is not None and not name.startswith("custom."):
        same = (there.__module__, there.__qualname__) == (cls.__module__, cls.__qualname__)
        if not same:
            raise ConfigError(
                f"two operators are named {name!r}: {there.__module__}.{there.__qualname__} and "
                f"{cls.__module__}.{cls.__qualname__}",
                hint="give one of them another name= in its class line",
            )
    _operators[name] = cls


def catalogue() -> dict[str, type[Operator]]:
    """All registered operators by full name, those of other packages included."""
    _load()
    return dict(sorted(_operators.items()))


def lookup(name: str) -> type[Operator]:
    """The operator with this full name ("retrieval.dense") or unambiguous last part ("dense").

    Raises NotFoundError with the nearest names, ConfigError when the short name is ambiguous.
    """
    _load()
    if name in _operators:
        return _operators[name]
    matches = [full for full in _operators if full.rpartition(".")[2] == name]
    if len(matches) == 1:
        return _operators[matches[0]]
    if matches:
        raise ConfigError(f"operator name {name!r} is ambiguous", hint="write one of " + ", ".join(sorted(matches)))
    registered = [full for full in _operators if not full.startswith("custom.")]
    known = registered if "." in name else [full.rpartition(".")[2] for full in registered]
    raise NotFoundError(f"no operator is named {name!r}", hint=did_you_mean(name, known))


def short_name(cls: type[Operator]) -> str:
    """The last part of an operator's name where that is unambiguous, otherwise the whole."""
    last = cls.operator_name.rpartition(".")[2]
    _load()
    same = [full for full in _operators if full.rpartition(".")[2] == last]
    return last if len(same) <= 1 else cls.operator_name


def _load() -> None:
    global _loaded
    with _lock:
        if _loaded:
            return
        for module in MODULES:
            importlib.import_module(f"rag.operators.{module}")
        for entry in entry_points(group="rag.operators"):
            entry.load()
        _loaded = True
