import random

import numpy as np
import pytest

from rag.operators.indexing.chunkers.tokens import words
from rag.operators.indexing.duplicates import DedupeSettings, Duplicate, DuplicateFinder, bands_for


def jaccard(a: str, b: str, size: int = 3) -> float:
    def runs(text: str) -> set[tuple[str, ...]]:
        each = words(text.casefold())
        size_ = min(size, len(each))
        return {tuple(each[i : i + size_]) for i in range(len(each) - size_ + 1)}

    first, second = runs(a), runs(b)
    return len(first & second) / len(first | second)


def perturbed(seed: int, originals: int = 40, copies: int = 4) -> list[str]:
    """Random texts, and copies of them with a share of the words replaced."""
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(2000)]
    texts = []
    for _ in range(originals):
        text = rng.choices(vocabulary, k=rng.randint(20, 120))
        texts.append(" ".join(text))
        for _ in range(copies):
            share = rng.random() * 0.15
            texts.append(" ".join(rng.choice(vocabulary) if rng.random() < share else word for word in text))
    rng.shuffle(texts)
    return texts


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_near_duplicates_are_those_of_brute_force(threshold: float) -> None:
    finder = DuplicateFinder(DedupeSettings(exact="keep", threshold=threshold))
    texts = perturbed(seed=int(threshold * 10))
    first: list[int] = []
    wrong = 0
    expected_count = 0
    for number, text in enumerate(texts):
        similarities = [(jaccard(texts[earlier], text), -earlier) for earlier in first]
        best, earlier = max(similarities, default=(0.0, 0))
        expected = Duplicate(str(number), str(-earlier), best, False) if best >= threshold else None
        expected_count += expected is not None
        found = finder.add(str(number), text)
        wrong += found != expected
        # What was found decides what is compared later.
        if found is None:
            first.append(number)
    assert expected_count > 20
    assert wrong <= 1  # a pair at the threshold is missed once in a thousand times


def test_exact_duplicates_differ_in_space_only() -> None:
    finder = DuplicateFinder(DedupeSettings(near="keep"))
    assert finder.add("a", "Some  text\nhere. e\u0301") is None
    assert finder.add("b", " Some text here. \u00e9 ") == Duplicate("b", "a", 1.0, True)
    assert finder.add("c", "Some text here") is None
    assert finder.add("d", "some text here. \u00e9") is None
    assert finder.add("e", "Some text here", about="other fields") is None


def test_a_long_text_is_compared_by_its_sketch() -> None:
    rng = np.random.default_rng(1)
    text = [f"w{i}" for i in rng.integers(0, 50_000, 30_000)]
    changed = [word if keep else "new" for word, keep in zip(text, rng.random(30_000) > 0.03, strict=True)]
    finder = DuplicateFinder()
    assert finder.add("a", " ".join(text)) is None
    found = finder.add("b", " ".join(changed))
    assert found is not None
    assert abs(found.similarity - jaccard(" ".join(text), " ".join(changed))) < 0.03
    assert finder.add("c", " ".join(f"v{i}" for i in range(30_000))) is None


def test_short_and_empty_texts() -> None:
    finder = DuplicateFinder(DedupeSettings(exact="report"))
    assert finder.add("a", "Hello") is None
    assert finder.add("b", "hello") == Duplicate("b", "a", 1.0, False)
    assert finder.add("c", "hello world") is None


def test_equal_in_every_run() -> None:
    texts = perturbed(seed=3, originals=10)
    runs = []
    for _ in range(2):
        finder = DuplicateFinder()
        runs.append([finder.add(str(i), text) for i, text in enumerate(texts)])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("threshold", np.arange(0.1, 1.01, 0.05))
def test_bands_miss_a_pair_at_the_threshold_at_most_once_in_a_thousand(threshold: float) -> None:
    bands, rows = bands_for(threshold)
    assert bands * rows <= 128
    if threshold >= 0.1:
        assert (1 - threshold**rows) ** bands <= 1e-3


def test_half_similar_masses_take_bounded_work() -> None:
    """Thousands of texts from one template share buckets, but no text is compared with all others."""
    rng = random.Random(0)
    template = " ".join(f"t{i}" for i in range(40))
    finder = DuplicateFinder()
    for number in range(1500):
        assert (
            finder.add(str(number), template + " " + " ".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=40))) is None
        )
    assert max(map(len, finder._buckets.values())) <= 256
