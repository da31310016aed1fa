"""Fitting all methods, and the file that keeps them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from rag.errors import CollectionError, ConfigError, DamagedFileError, InputError, MissingExtraError, NotFoundError
from rag.relevance import METHODS, Recipe, RelevanceModel, candidate_lists, fit, folds, load_models, save_models
from rag.relevance.measures import calibration_error, cut, pr_auc
from tests.relevance.synthetic import noisy_lists

UNTRAINED = tuple(m for m in METHODS if "adapter" not in m)


@pytest.fixture(scope="module")
def model() -> RelevanceModel:
    pytest.importorskip("torch")
    return fit(noisy_lists(1500, 1)[0], encoder="abc123", recipe=Recipe(hidden=32, epochs=6))


@pytest.mark.torch
def test_every_method_is_calibrated_and_meets_its_target_on_fresh_queries(model: RelevanceModel):
    lists = noisy_lists(1500, 9)[0]
    for name in METHODS:
        method = model.method(name)
        values = method.scorer(lists).values
        assert cut(values, lists.labels, method.curve.at_recall(0.95)).recall == pytest.approx(0.95, abs=0.02)
        if name in ("zscore", "truncation", "list_adapter"):  # of others the chance is no logistic curve here
            assert calibration_error(method.relevance(values).ravel(), lists.labels.ravel()) < 0.01
        chance = method.relevance(np.float32([method.value_of(0.3)]))
        assert chance == pytest.approx([0.3], abs=1e-3)
    assert model.k == 100
    assert model.best in ("zscore", "truncation", "adapter", "list_adapter", "joint_adapter")
    assert pr_auc(model.method("best").scorer(lists).values, lists.labels) > 0.75


@pytest.mark.torch
def test_a_file_gives_back_the_model(model: RelevanceModel, tmp_path: Path):
    path = tmp_path / "new" / "filter.safetensors"
    save_models([model], path)
    again = load_models(path)["dense"]
    lists = noisy_lists(50, 10)[0]
    assert (again.encoder, again.scorer, again.k, again.best) == ("abc123", "dense", 100, model.best)
    assert again.about == model.about
    for name in METHODS:
        first, second = model.method(name), again.method(name)
        np.testing.assert_array_equal(first.scorer(lists).values, second.scorer(lists).values)
        assert (first.slope, first.offset) == (second.slope, second.offset)
        assert first.curve.at_recall(0.9) == second.curve.at_recall(0.9)
    assert os.listdir(path.parent) == ["filter.safetensors"]


@pytest.mark.torch
def test_damaged_files_are_told(model: RelevanceModel, tmp_path: Path):
    path = tmp_path / "filter.safetensors"
    with pytest.raises(NotFoundError, match=r"there is no relevance model.*rag filter train"):
        load_models(path)["dense"]
    save_models([model], path)
    content = path.read_bytes()
    for damaged in (b"", content[:20], content[: len(content) // 2], b"{}" + content, content + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"filter.safetensors is no relevance model"):
            load_models(path)


@pytest.mark.torch
@pytest.mark.parametrize(
    "change",
    [
        {"best": "nonsense"},
        {"encoder": None, "methods": {"nonsense": {}}},
        {"methods": {"raw": {"slope": -1, "offset": 0}}, "best": "raw"},
        {"methods": {"raw": {"slope": float("nan"), "offset": 0}}, "best": "raw"},
        {"k": "many"},
    ],
)
def test_forged_heads_are_refused(model: RelevanceModel, tmp_path: Path, change: dict[str, object]):
    path = tmp_path / "filter.safetensors"
    save_models([model], path)
    head, tensors = contents(path)
    head["models"]["dense"] |= change
    save_file(tensors, path, {"relevance": json.dumps(head)})
    with pytest.raises(DamagedFileError):
        load_models(path)


@pytest.mark.torch
@pytest.mark.parametrize("part", ["hidden", "hidden_bias", "output", "default", "shift", "curve"])
@pytest.mark.parametrize("kind", ["nan", "shape", "missing", "dtype"])
def test_forged_arrays_are_refused(model: RelevanceModel, tmp_path: Path, part: str, kind: str):
    path = tmp_path / "filter.safetensors"
    save_models([model], path)
    head, tensors = contents(path)
    name = f"dense.adapter.{part}"
    if kind == "nan":
        tensors[name] = np.full_like(tensors[name], np.nan)
    elif kind == "shape":
        tensors[name] = np.zeros((3, 5, 2), np.float32)
    elif kind == "dtype":
        tensors[name] = tensors[name].astype(np.float64)
    else:
        del tensors[name]
    save_file(tensors, path, {"relevance": json.dumps(head)})
    with pytest.raises(DamagedFileError):
        load_models(path)


@pytest.mark.torch
def test_a_newer_format_asks_for_an_upgrade(model: RelevanceModel, tmp_path: Path):
    path = tmp_path / "filter.safetensors"
    save_models([model], path)
    head, tensors = contents(path)
    for number, hint in ((99, "upgrade"), (1, "make it again")):
        save_file(tensors, path, {"relevance": json.dumps(head | {"format": number})})
        with pytest.raises(CollectionError, match=rf"format {number}.*{hint}"):
            load_models(path)


def contents(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["relevance"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_without_torch_all_but_adapters_can_be_fitted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    lists = noisy_lists(200, 1)[0]
    found = fit(lists, encoder="x", methods=UNTRAINED)
    assert set(found.methods) == set(UNTRAINED)
    with pytest.raises(ConfigError, match="no method 'adapter'"):
        found.method("adapter")
    with pytest.raises(MissingExtraError, match=r"training a relevance adapter.*modular-rag\[local\]"):
        fit(lists, encoder="x")


def test_too_little_to_learn_from_is_told():
    lists = noisy_lists(40, 1)[0]
    with pytest.raises(InputError, match="0 of 40 queries have a relevant candidate, a relevance filter needs 20"):
        fit(replace(lists, labels=np.zeros_like(lists.labels)), encoder="x")
    with pytest.raises(InputError, match="all candidates are labelled relevant"):
        fit(replace(lists, labels=np.ones_like(lists.labels)), encoder="x")
    with pytest.raises(InputError, match="no labels"):
        fit(candidate_lists(lists.scores), encoder="x")


def test_folds_hold_every_query_out_once():
    lists = noisy_lists(23, 1)[0]
    parts = list(folds(lists, 4))
    assert [len(rest) + len(part) for rest, part in parts] == [23] * 4
    held = np.concatenate([part.queries for _, part in parts])
    assert len(np.unique(held, axis=0)) == 23
    for rest, part in parts:
        assert not set(map(bytes, rest.queries)) & set(map(bytes, part.queries))
