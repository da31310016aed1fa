"""Interpolation and extrapolation: how much of a score is memory of training questions.

After Zhan et al. 2022, "Evaluating Interpolation and Extrapolation Performance of Neural Retrieval Models"
(arXiv:2204.11447).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.errors import InputError
from rag.evaluate.significance import Interval, bootstrap

__all__ = ["LEAST", "Extrapolation", "Overlap", "Rotation", "by_nearness", "extrapolation", "overlap", "resttest"]

LEAST = 50
"""Questions in a part, below which nothing is claimed."""

_ROUNDS = 50

Judge = Callable[[NDArray[np.int64], NDArray[np.int64]], ArrayLike]
"""From rows of training questions and rows of test questions to the measure float[m] of each of the latter."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """One bucket left out: rows of the training questions to learn from, of test questions that lie in the same buckets
    as these (interpolation), and of those in the bucket that was left out (extrapolation)."""

    train: NDArray[np.int64]
    interpolation: NDArray[np.int64]
    extrapolation: NDArray[np.int64]


@dataclass(frozen=True)
class Overlap:
    """Shares of the test questions: with a training question at least as `near`, by cosine; and with a relevant
    document that is also one of a training question."""

    near: float
    questions: float
    documents: float


@dataclass(frozen=True, eq=False)
class Extrapolation:
    """Means over test questions with 95 % bootstrap intervals, and `drop`, the share of interpolation that is lost."""

    interpolation: Interval
    extrapolation: Interval

    @property
    def drop(self) -> float:
        """(I - E) / I; NaN where I is 0."""
        inside, outside = self.interpolation.mean, self.extrapolation.mean
        return (inside - outside) / inside if inside else float("nan")


def resttest(train: ArrayLike, test: ArrayLike, *, k: int = 5, seed: int = 0) -> list[Rotation]:
    """The k rotations of ReSTTest: training and test questions clustered together, by k-means on the sphere.

    `train` [n, d] and `test` [m, d] are embeddings of the questions, best by an encoder that was not trained on them.
    Raises InputError when a part has fewer than 50 test questions, or a rotation nothing to learn from.
    """
    learned, asked = _unit(train), _unit(test)
    if learned.shape[1] != asked.shape[1] or k < 2:
        raise InputError(f"{k} buckets of questions with embeddings {learned.shape} and {asked.shape}")
    bucket = _clusters(np.concatenate([learned, asked]), k, seed)
    of_train, of_test = bucket[: len(learned)], bucket[len(learned) :]
    rotations = [
        Rotation(np.flatnonzero(of_train != b), np.flatnonzero(of_test != b), np.flatnonzero(of_test == b))
        for b in range(k)
    ]
    for number, one in enumerate(rotations):
        _check(f"bucket {number}", one.extrapolation, "ask for fewer buckets, or judge more questions")
        _check(f"the test questions beside bucket {number}", one.interpolation, "judge more questions")
        if not len(one.train):
            raise InputError(f"all training questions lie in bucket {number}", hint="ask for another number of buckets")
    return rotations


def by_nearness(train: ArrayLike, test: ArrayLike) -> Rotation:
    """For what is trained already: the half of the test questions that lies nearest to a training question, and the
    other one. Raises InputError when a half has fewer than 50 questions."""
    near = _nearest(_unit(train), _unit(test))
    order = np.argsort(-near, kind="stable")
    middle = len(order) // 2
    halves = np.sort(order[:middle]), np.sort(order[middle:])
    for name, half in zip(("near", "far"), halves, strict=True):
        _check(f"the {name} half of the test questions", half, "judge more questions")
    return Rotation(np.arange(len(_unit(train))), *halves)


def extrapolation(rotations: Sequence[Rotation], judge: Judge, *, seed: int = 0) -> Extrapolation:
    """Train and judge in every rotation. Each test question counts once in extrapolation; in interpolation by its mean
    over the rotations that it is in."""
    count = 1 + max(int(max(one.interpolation.max(), one.extrapolation.max())) for one in rotations)
    sums, times, outside = np.zeros(count), np.zeros(count), np.full(count, np.nan)
    for one in rotations:
        rows = np.concatenate([one.interpolation, one.extrapolation])
        values = np.asarray(judge(one.train, rows), np.float64)
        if values.shape != rows.shape:
            raise InputError(f"judged {values.shape} values for {len(rows)} test questions")
        inside = len(one.interpolation)
        sums[one.interpolation] += values[:inside]
        times[one.interpolation] += 1
        outside[one.extrapolation] = values[inside:]
    some = times > 0
    return Extrapolation(
        bootstrap(sums[some] / times[some], seed=seed), bootstrap(outside[~np.isnan(outside)], seed=seed)
    )


def overlap(
    train: ArrayLike,
    test: ArrayLike,
    train_relevant: Sequence[Set[str]],
    test_relevant: Sequence[Set[str]],
    *,
    near: float = 0.8,
) -> Overlap:
    """How much test questions have in common with training questions, by embeddings and by relevant documents."""
    close = _nearest(_unit(train), _unit(test)) >= near
    known = set().union(*train_relevant)
    shared = [bool(known & own) for own in test_relevant]
    return Overlap(near, float(close.mean()), float(np.mean(shared)))


def _check(what: str, rows: NDArray[np.int64], hint: str) -> None:
    if len(rows) < LEAST:
        raise InputError(f"{what} has {len(rows)} test questions; nothing is claimed of fewer than {LEAST}", hint=hint)


def _unit(vectors: ArrayLike) -> NDArray[np.float32]:
    table = np.asarray(vectors, np.float32)
    if table.ndim != 2 or not len(table) or not np.isfinite(table).all():
        raise InputError(f"embeddings of shape {table.shape}, expected [questions, d] of finite numbers")
    return np.asarray(table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12))


def _nearest(train: NDArray[np.float32], test: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest cosine float32[m] of each test question with a training question."""
    return np.concatenate([(test[at : at + 256] @ train.T).max(axis=1) for at in range(0, len(test), 256)])


def _clusters(vectors: NDArray[np.float32], k: int, seed: int) -> NDArray[np.int64]:
    """The bucket int64[n] of each unit vector, by k-means on the sphere (Dhillon and Modha 2001), begun with vectors
    far from each other (k-means++, Arthur and Vassilvitskii 2007)."""
    rng = np.random.default_rng(seed)
    centres = vectors[[int(rng.integers(len(vectors)))]]
    while len(centres) < k:
        far = np.clip(1 - (vectors @ centres.T).max(axis=1), 0, None).astype(np.float64)
        chances = far / far.sum() if far.sum() else None
        centres = np.concatenate([centres, vectors[[int(rng.choice(len(vectors), p=chances))]]])
    bucket: NDArray[np.int64] = np.argmax(vectors @ centres.T, axis=1)
    for _ in range(_ROUNDS):
        sums = np.zeros_like(centres)
        np.add.at(sums, bucket, vectors)
        centres = np.where(np.bincount(bucket, minlength=k)[:, None] > 0, sums, centres)
        centres = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        after = np.argmax(vectors @ centres.T, axis=1)
        if (after == bucket).all():
            break
        bucket = after
    return bucket
