"""What flows, as bytes and as digests: for results that are kept and for keys under which they are found.

A small closed set of types, written as JSON with arrays in base64. Anything else is not kept.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from rag.types import Answer, Chunk, Citation, Context, Document, Hits, Message, Passage, Query, Usage

__all__ = ["NotKept", "digest", "from_bytes", "to_bytes"]

_RECORDS: dict[str, type] = {
    kind.__name__: kind for kind in (Answer, Chunk, Citation, Context, Document, Message, Passage, Query, Usage)
}


class NotKept(TypeError):  # noqa: N818  a signal: the value simply is not cached
    """A value of a type that has no form as bytes."""


def digest(*values: Any) -> str:
    """Hex digest of values: equal values, also of another process, have equal digests. Raises NotKept."""
    return hashlib.blake2b(to_bytes(list(values)), digest_size=20).hexdigest()


def to_bytes(value: Any) -> bytes:
    """The bytes of a value, the same for equal values. Raises NotKept."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def from_bytes(data: bytes, store: Any = None) -> Any:
    """The value again; `store` is where its hits get their text from."""
    return _rich(json.loads(data.decode("utf-8", "surrogatepass")), store)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        if type(value) not in (type(None), str, bool, int, float):
            raise NotKept(type(value).__name__)  # a subclass would come back as its base
        return value
    if isinstance(value, list | tuple):
        return {"!": "tuple" if isinstance(value, tuple) else "list", "items": [_plain(item) for item in value]}
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return {"!": "array", "dtype": value.dtype.str, "shape": list(value.shape), "data": data}
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Hits):
        columns = {name: _plain(column) for name, column in value.columns.items()}
        return {"!": "Hits", "ids": _plain(value.ids), "scores": _plain(value.scores), "columns": columns}
    if type(value).__name__ in _RECORDS and is_dataclass(value):
        return {"!": type(value).__name__, **{f.name: _plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {"!": "dict", "items": {str(key): _plain(item) for key, item in value.items()}}
    raise NotKept(type(value).__name__)


def _rich(value: Any, store: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kind = value.pop("!")
    if kind in ("list", "tuple"):
        items = [_rich(item, store) for item in value["items"]]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {key: _rich(item, store) for key, item in value["items"].items()}
    if kind == "array":
        array = np.frombuffer(base64.b64decode(value["data"]), dtype=np.dtype(value["dtype"]))
        return array.reshape(value["shape"])
    if kind == "Hits":
        columns = {name: _rich(column, store) for name, column in value["columns"].items()}
        return Hits(_rich(value["ids"], store), _rich(value["scores"], store), columns, store)
    return _RECORDS[kind](**{name: _rich(item, store) for name, item in value.items()})
