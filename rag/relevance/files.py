"""Relevance models as a safetensors file: arrays, and in the metadata what they belong to and how they were fitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import CollectionError
from rag.index.tensors import Tensors, read_tensors, write_tensors
from rag.relevance.adapter import Base, CosineAdapter, Encoding
from rag.relevance.answerable import Answerable
from rag.relevance.model import ADAPTERS, METHODS, FittedMethod, RelevanceModel
from rag.relevance.scorers import SIMPLE, Scorer
from rag.relevance.thresholds import OperatingCurve
from rag.relevance.truncation import Truncation

__all__ = ["load_models", "save_models"]

FORMAT = 3
_MADE_BY = "rag filter train"


def save_models(models: Iterable[RelevanceModel], path: Path) -> None:
    """Write the models of several scorers into one file, completely or not at all; its folder is made.

    Raises CollectionError when that cannot be done.
    """
    tensors: Tensors = {}
    heads = {}
    for model in models:
        own, heads[model.scorer] = _written(model)
        tensors |= {f"{model.scorer}.{name}": array for name, array in own.items()}
    write_tensors(path, tensors, "relevance", {"format": FORMAT, "models": heads})


def load_models(path: Path) -> dict[str, RelevanceModel]:
    """Read the models of a file by the names of their scorers, checking that they are whole.

    Raises NotFoundError, DamagedFileError, or CollectionError for a newer format.
    """

    def build(head: Mapping[str, Any], tensors: Tensors) -> dict[str, RelevanceModel]:
        if head["format"] < FORMAT:
            hint = f"make it again with `{_MADE_BY}`"
            raise CollectionError(f"{path} has format {head['format']}, which is read no longer", hint=hint)
        return {name: _model(name, own, _named(name, tensors)) for name, own in head["models"].items()}

    return read_tensors(path, "relevance", "relevance model", FORMAT, _MADE_BY, build)


def _written(model: RelevanceModel) -> tuple[Tensors, dict[str, Any]]:
    """The arrays of a model, and the rest as JSON values."""
    tensors: Tensors = {"answerable.weights": model.answerable.weights, "answerable.curve": _table(model.answerable)}
    methods = {}
    for name, method in model.methods.items():
        tensors[f"{name}.curve"] = _table(method)
        tensors |= {f"{name}.{part}": np.ascontiguousarray(array) for part, array in _arrays(method.scorer).items()}
        methods[name] = {"slope": method.slope, "offset": method.offset, **_facts(method.scorer)}
    about = dict(model.about)
    return tensors, {"encoder": model.encoder, "k": model.k, "best": model.best, "methods": methods, "about": about}


def _table(fitted: FittedMethod | Answerable) -> NDArray[np.float32]:
    return np.stack([fitted.curve.thresholds, fitted.curve.recall, fitted.curve.precision])


def _named(prefix: str, tensors: Tensors) -> Tensors:
    """Those below this name, without it."""
    return {name.removeprefix(prefix + "."): array for name, array in tensors.items() if name.startswith(prefix + ".")}


def _model(scorer: str, head: Mapping[str, Any], tensors: Tensors) -> RelevanceModel:
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise ValueError(f"{name} holds something else than finite float32 numbers")
    methods = {}
    for name, facts in head["methods"].items():
        if name not in METHODS:
            raise ValueError(f"unknown method {name!r}")
        own = _named(name, tensors)
        slope, offset = float(facts["slope"]), float(facts["offset"])
        if not (0 < slope < float("inf") and np.isfinite(offset)):
            raise ValueError(f"{name} has slope {slope} and offset {offset}")
        methods[name] = FittedMethod(_scorer(name, facts, own), slope, offset, _curve(own["curve"]))
    if head["best"] not in methods:
        raise ValueError(f"the best method is {head['best']!r}, which it does not hold")
    answerable = Answerable(tensors["answerable.weights"], _curve(tensors["answerable.curve"]))
    about = dict(head["about"])
    return RelevanceModel(str(head["encoder"]), scorer, int(head["k"]), head["best"], methods, answerable, about)


def _curve(table: NDArray[np.float32]) -> OperatingCurve:
    if table.ndim != 2 or len(table) != 3 or not table.shape[1] or (np.diff(table[0]) > 0).any():
        raise ValueError(f"a curve of shape {table.shape} is none")
    return OperatingCurve(*table)


def _facts(scorer: Scorer) -> dict[str, Any]:
    """What is not in the arrays of a scorer."""
    if not isinstance(scorer, CosineAdapter):
        return {}
    encoding = scorer.encoding
    return {
        "mapping": scorer.mapping,
        "base": "truncation" if isinstance(scorer.base, Truncation) else scorer.base,
        "inputs": encoding.inputs,
        "invariant": encoding.invariant,
    }


def _arrays(scorer: Scorer) -> Tensors:
    if isinstance(scorer, Truncation):
        return {"weights": scorer.weights}
    if not isinstance(scorer, CosineAdapter):
        return {}
    base = {"truncation": scorer.base.weights} if isinstance(scorer.base, Truncation) else {}
    return base | {
        "shift": scorer.encoding.shift,
        "scale": scorer.encoding.scale,
        "hidden": scorer.hidden,
        "hidden_bias": scorer.hidden_bias,
        "output": scorer.output,
        "default": scorer.default,
    }


def _scorer(name: str, facts: Mapping[str, Any], arrays: Tensors) -> Scorer:
    if name == "truncation":
        return Truncation(arrays["weights"])
    if name not in ADAPTERS:
        return SIMPLE["raw" if name == "platt" else name]
    encoding = Encoding(facts["inputs"], bool(facts["invariant"]), arrays["shift"], arrays["scale"])
    parts = (arrays[part] for part in ("hidden", "hidden_bias", "output", "default"))
    return CosineAdapter(facts["mapping"], _base(facts["base"], arrays), encoding, *parts)


def _base(name: str, arrays: Tensors) -> Base:
    if name == "truncation":
        return Truncation(arrays["truncation"])
    for known in ("cosine", "standardised"):
        if name == known:
            return known
    raise ValueError(f"an adapter of {name!r} is not known")
