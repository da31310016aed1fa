"""Relevance models as safetensors files: arrays, and in the metadata what they belong to and how they were fitted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rag.index.tensors import Tensors, read_tensors, write_tensors
from rag.relevance.adapter import CosineAdapter, Encoding
from rag.relevance.model import ADAPTERS, METHODS, FittedMethod, RelevanceModel
from rag.relevance.scorers import SIMPLE, Scorer
from rag.relevance.thresholds import OperatingCurve
from rag.relevance.truncation import Truncation

__all__ = ["load_model", "save_model"]

FORMAT = 1


def save_model(model: RelevanceModel, path: Path) -> None:
    """Write a model, completely or not at all; its folder is made. Raises CollectionError when that cannot be done."""
    tensors: Tensors = {}
    methods = {}
    for name, method in model.methods.items():
        curve = method.curve
        tensors[f"{name}.curve"] = np.stack([curve.thresholds, curve.recall, curve.precision])
        tensors |= {f"{name}.{part}": np.ascontiguousarray(array) for part, array in _arrays(method.scorer).items()}
        methods[name] = {"slope": method.slope, "offset": method.offset, **_facts(method.scorer)}
    head = {
        "format": FORMAT,
        "encoder": model.encoder,
        "metric": model.metric,
        "k": model.k,
        "best": model.best,
        "methods": methods,
        "about": dict(model.about),
    }
    write_tensors(path, tensors, "relevance", head)


def load_model(path: Path) -> RelevanceModel:
    """Read a model, checking that it is whole.

    Raises NotFoundError, DamagedFileError, or CollectionError for a newer format.
    """
    return read_tensors(path, "relevance", "relevance model", FORMAT, "rag filter train", _model)


def _model(head: Mapping[str, Any], tensors: Tensors) -> RelevanceModel:
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise ValueError(f"{name} holds something else than finite float32 numbers")
    methods = {}
    for name, facts in head["methods"].items():
        if name not in METHODS:
            raise ValueError(f"unknown method {name!r}")
        own = {key.partition(".")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
        slope, offset = float(facts["slope"]), float(facts["offset"])
        if not (0 < slope < float("inf") and np.isfinite(offset)):
            raise ValueError(f"{name} has slope {slope} and offset {offset}")
        curve = own.pop("curve")
        if curve.ndim != 2 or len(curve) != 3 or not curve.shape[1] or (np.diff(curve[0]) > 0).any():
            raise ValueError(f"{name} has a curve of shape {curve.shape} that is none")
        methods[name] = FittedMethod(_scorer(name, facts, own), slope, offset, OperatingCurve(*curve))
    if head["best"] not in methods:
        raise ValueError(f"the best method is {head['best']!r}, which it does not hold")
    return RelevanceModel(
        str(head["encoder"]), str(head["metric"]), int(head["k"]), head["best"], methods, dict(head["about"])
    )


def _facts(scorer: Scorer) -> dict[str, Any]:
    """What is not in the arrays of a scorer."""
    if not isinstance(scorer, CosineAdapter):
        return {}
    encoding = scorer.encoding
    return {
        "mapping": scorer.mapping,
        "centred": scorer.centred,
        "inputs": encoding.inputs,
        "invariant": encoding.invariant,
    }


def _arrays(scorer: Scorer) -> Tensors:
    if isinstance(scorer, Truncation):
        return {"weights": scorer.weights}
    if not isinstance(scorer, CosineAdapter):
        return {}
    return {
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
    return CosineAdapter(facts["mapping"], bool(facts["centred"]), encoding, *parts)
