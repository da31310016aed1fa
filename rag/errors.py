"""Every error that this package raises on purpose.

RagError
├── ConfigError               a setting, YAML file or command-line value is wrong
│   └── FlowError             a pipeline graph does not fit together
├── InputError                a value handed to a function is wrong (also a ValueError)
├── NotFoundError             a collection, model, document or name does not exist
├── MissingExtraError         an optional dependency is not installed
├── CollectionError           a collection on disk cannot be used as asked
│   ├── DamagedFileError      a stored file fails its checks
│   ├── LockedError           another process is writing
│   ├── EngineError           the engine that holds its vectors failed or cannot be reached
│   └── EncoderMismatchError  the vectors were made by another encoder
├── ModelError                an encoder or language model failed or cannot be reached
├── DeadlineError             something took longer than it may (also a TimeoutError)
└── OperatorError             an operator failed while a pipeline ran; names the node
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CollectionError",
    "ConfigError",
    "DamagedFileError",
    "DeadlineError",
    "EncoderMismatchError",
    "EngineError",
    "FlowError",
    "InputError",
    "LockedError",
    "MissingExtraError",
    "ModelError",
    "NotFoundError",
    "OperatorError",
    "RagError",
    "did_you_mean",
]


class RagError(Exception):
    """Base of all errors here: `message` says what is wrong and where, `hint` what to do about it.

    `node` names the pipeline node that raised it, once a running pipeline has let it pass.
    """

    node: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        where = f"node {self.node!r}: " if self.node else ""
        return f"{where}{self.message} ({self.hint})" if self.hint else where + self.message


class ConfigError(RagError):
    """A setting, YAML file or command-line value is wrong."""


class FlowError(ConfigError):
    """A pipeline graph does not fit together: a channel, a type or a name is wrong."""


class InputError(RagError, ValueError):
    """A value handed to a function is wrong."""


class NotFoundError(RagError, LookupError):
    """A collection, model, document or name does not exist."""


class MissingExtraError(RagError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional part", hint=f"pip install 'modular-rag[{extra}]'")
        self.extra = extra


class CollectionError(RagError):
    """A collection on disk cannot be used as asked."""


class DamagedFileError(CollectionError):
    """A stored file fails its checks; the message names the file and the hint the way out."""


class LockedError(CollectionError):
    """Another process is writing to the collection."""


class EngineError(CollectionError):
    """An engine outside this process failed, cannot be reached, or does not hold what it should."""


class EncoderMismatchError(CollectionError):
    """The vectors of the collection were made by another encoder."""


class ModelError(RagError):
    """An encoder or language model failed or cannot be reached."""


class DeadlineError(RagError, TimeoutError):
    """Something took longer than it may."""


class OperatorError(RagError):
    """An operator failed while a pipeline ran; `node` names it and `__cause__` is what it raised."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest known ones, or all of them when none is near and they are few."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "known: " + ", ".join(known) if 0 < len(known) <= 20 else ""
