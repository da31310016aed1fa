"""The interpolation and extrapolation split tells memory from skill."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.errors import InputError
from rag.evaluate.splits import Rotation, by_nearness, extrapolation, overlap, resttest

TOPICS, DIM = 50, 32


def questions(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings around one of 50 topics, and the topic, which is what has to be found."""
    centres = np.random.default_rng(0).standard_normal((TOPICS, DIM))
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, TOPICS, count)
    return (centres[topic] + 0.1 * rng.standard_normal((count, DIM))).astype(np.float32), topic


TRAIN, TRAIN_TOPIC = questions(1000, 1)
TEST, TEST_TOPIC = questions(600, 2)


def memory(train: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.float64]:
    """Answers as the nearest training question was answered."""
    nearest = (TEST[test] @ TRAIN[train].T / np.linalg.norm(TRAIN[train], axis=1)).argmax(axis=1)
    return (TRAIN_TOPIC[train][nearest] == TEST_TOPIC[test]).astype(float)


def untrained(_: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.float64]:
    """Right for a question, or not, whatever was learned."""
    return np.random.default_rng(3).random(len(TEST))[test]


def test_buckets_hold_every_question_out_once():
    rotations = resttest(TRAIN, TEST)
    assert len(rotations) == 5
    assert sorted(np.concatenate([r.extrapolation for r in rotations]).tolist()) == list(range(600))
    for one in rotations:
        assert not set(one.interpolation.tolist()) & set(one.extrapolation.tolist())
        assert len(one.interpolation) + len(one.extrapolation) == 600
        left_out = set(TEST_TOPIC[one.extrapolation].tolist())
        assert not left_out & set(TRAIN_TOPIC[one.train].tolist())  # topics are not torn apart
    again = resttest(TRAIN, TEST)
    assert all((a.train == b.train).all() for a, b in zip(rotations, again, strict=True))


def test_memory_drops_and_what_was_not_trained_does_not():
    rotations = resttest(TRAIN, TEST)
    learned = extrapolation(rotations, memory)
    assert learned.interpolation.mean > 0.9
    assert learned.drop >= 0.8
    assert learned.extrapolation.high < learned.interpolation.low
    assert abs(extrapolation(rotations, untrained).drop) <= 0.1


def test_by_chance_the_parts_do_not_differ():
    rng = np.random.default_rng(4)
    learned, asked = rng.permutation(1000), rng.permutation(600)
    shuffled = [
        Rotation(learned[r.train], asked[r.interpolation], asked[r.extrapolation]) for r in resttest(TRAIN, TEST)
    ]
    found = extrapolation(shuffled, memory)
    assert found.interpolation.low <= found.extrapolation.high
    assert abs(found.drop) <= 0.05


def test_what_is_trained_already_is_split_by_nearness():
    known = TRAIN[TRAIN_TOPIC < 25]
    one = by_nearness(known, TEST)
    assert len(one.interpolation) == len(one.extrapolation) == 300
    assert (TEST_TOPIC[one.interpolation] < 25).mean() > 0.9
    assert (TEST_TOPIC[one.extrapolation] < 25).mean() < 0.1


def test_overlap_is_counted():
    train, test = np.eye(4)[:2], np.array([[1, 0.1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]])
    found = overlap(train, test, [{"a"}, {"b", "c"}], [{"a"}, {"c", "z"}, {"y"}, {"x"}], near=0.9)
    assert (found.questions, found.documents) == (0.5, 0.5)


def test_too_few_questions_are_refused():
    with pytest.raises(InputError, match=r"has \d+ test questions; nothing is claimed of fewer than 50"):
        resttest(TRAIN, TEST[:100])
    with pytest.raises(InputError, match="near half of the test questions has 45"):
        by_nearness(TRAIN, TEST[:90])
    with pytest.raises(InputError, match="expected"):
        resttest(TRAIN, np.zeros((0, DIM)))
