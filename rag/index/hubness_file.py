"""What a correction for hubs needs to be kept: the known questions, and how they are used, in a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.index.hubness import HUBNESS_KINDS, HubnessBanks, HubnessKind
from rag.index.tensors import Tensors, read_tensors, write_tensors

__all__ = ["ChosenKind", "HubnessModel", "load_hubness", "save_hubness"]

FORMAT = 1

ChosenKind: TypeAlias = HubnessKind | Literal["none"]


@dataclass(frozen=True, eq=False)
class HubnessModel:
    """The bank of known questions of a collection, float16[b, dim] of unit length, and what was found to be best.

    `encoder` is the fingerprint of what made the vectors; `best` the kind that helped, or "none"; `betas` the inverse
    temperature of each kind that has one; `neighbours` those of "csls". The bank of items is not kept: it is `items`
    vectors of the collection, chosen by `seed`. `about` tells how it came about, as JSON values.
    """

    encoder: str
    queries: NDArray[np.float16]
    best: ChosenKind
    betas: Mapping[str, float]
    neighbours: int
    items: int
    seed: int
    about: Mapping[str, Any]

    def sample(self, ids: NDArray[np.int64], kind: HubnessKind) -> NDArray[np.int64]:
        """Which of a collection's chunks (ids int64[n], sorted) are the bank of items of this kind; sorted."""
        if kind not in ("gallery_softmax", "dual_softmax"):
            return ids[:0]
        return np.sort(np.random.default_rng(self.seed).permutation(ids)[: self.items])

    def banks(self, kind: HubnessKind, items: NDArray[np.float32]) -> HubnessBanks:
        """The banks of this kind, with the vectors float32[i, dim] of the sample; raises as `HubnessBanks` does."""
        beta = self.betas.get(kind, 1.0)
        queries = self.queries.astype(np.float32)
        return HubnessBanks(queries, items, kind, neighbours=self.neighbours, beta_queries=beta, beta_items=beta)


def save_hubness(model: HubnessModel, path: Path) -> None:
    """Write a model, completely or not at all; its folder is made. Raises CollectionError when that cannot be done."""
    head = {
        "format": FORMAT,
        "encoder": model.encoder,
        "metric": "cosine",
        "best": model.best,
        "betas": dict(model.betas),
        "neighbours": model.neighbours,
        "items": model.items,
        "seed": model.seed,
        "about": dict(model.about),
    }
    write_tensors(path, {"queries": model.queries}, "hubness", head)


def load_hubness(path: Path) -> HubnessModel:
    """Read a model, checking that it is whole.

    Raises NotFoundError, DamagedFileError, or CollectionError for a newer format.
    """
    return read_tensors(path, "hubness", "bank against hubs", FORMAT, "rag hubs train", _model)


def _model(head: Mapping[str, Any], tensors: Tensors) -> HubnessModel:
    queries = tensors["queries"]
    if queries.dtype != np.float16 or queries.ndim != 2 or not len(queries) or not np.isfinite(queries).all():
        raise ValueError(f"questions {queries.dtype}{list(queries.shape)} are no finite float16 numbers")
    if head["best"] not in (*HUBNESS_KINDS, "none") or head["metric"] != "cosine":
        raise ValueError(f"best is {head['best']!r} under {head['metric']!r}")
    betas = {kind: float(beta) for kind, beta in head["betas"].items()}
    neighbours, items, seed = int(head["neighbours"]), int(head["items"]), int(head["seed"])
    if min(neighbours, items) < 1 or seed < 0 or not all(0 < beta < float("inf") for beta in betas.values()):
        raise ValueError(f"neighbours {neighbours}, items {items}, seed {seed}, betas {betas}")
    return HubnessModel(
        str(head["encoder"]), queries, head["best"], betas, neighbours, items, seed, dict(head["about"])
    )
