"""Measures of diversity by their definitions, and in evaluations."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest

from rag.errors import InputError
from rag.evaluate import evaluate, find
from rag.evaluate.build import collection_of
from rag.evaluate.diversity import alpha_ndcg, aspect_recall, intra_list_distance, judge_diversity
from rag.types import Hits


def test_intra_list_distance_is_the_mean_over_pairs() -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    points = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for k in (2, 5, 7, 20):
        expected = np.mean([1 - points[a] @ points[b] for a, b in combinations(range(min(k, 7)), 2)])
        assert intra_list_distance(vectors, k) == pytest.approx(expected, abs=1e-6)
    assert intra_list_distance(np.repeat(vectors[:1], 4, axis=0), 4) == pytest.approx(0, abs=1e-6)
    assert intra_list_distance(vectors[:1], 3) == intra_list_distance(vectors[:0], 3) == 0


def test_aspect_recall_counts_each_aspect_once() -> None:
    aspects = {"a": {"1", "2"}, "b": {"2"}, "c": {"3"}, "d": {"4"}}
    assert [aspect_recall(["b", "x", "a", "c"], aspects, k) for k in (1, 2, 3, 9)] == [0.25, 0.25, 0.5, 0.75]
    assert aspect_recall(["a"], {}, 5) == aspect_recall([], aspects, 5) == 0


def test_alpha_ndcg_is_its_definition() -> None:
    """Against the sum written out, and for few documents against the best of all rankings, which greed finds here."""
    aspects = {"a": {"1", "2"}, "b": {"2", "3"}, "c": {"3"}, "d": {"1"}, "e": set()}

    def dcg(ranking: tuple[str, ...], alpha: float, k: int) -> float:
        total = 0.0
        for rank, document in enumerate(ranking[:k]):
            for aspect in aspects.get(document, ()):
                before = sum(aspect in aspects.get(earlier, ()) for earlier in ranking[:rank])
                total += (1 - alpha) ** before / math.log2(rank + 2)
        return total

    for alpha in (0.0, 0.5, 1.0):
        for k in (1, 2, 4):
            best = max(dcg(order, alpha, k) for order in permutations(aspects))
            for ranking in (("d", "x", "a", "b", "c"), ("e", "c"), ("a", "b", "d", "c")):
                expected = dcg(ranking, alpha, k) / best
                assert alpha_ndcg(ranking, aspects, k, alpha) == pytest.approx(expected), (alpha, k, ranking)
    assert alpha_ndcg(["a"], {}, 3) == alpha_ndcg([], aspects, 3) == 0
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="alpha is"):
            alpha_ndcg(["a"], aspects, 3, wrong)
    with pytest.raises(InputError, match="k is 0"):
        aspect_recall(["a"], aspects, 0)


def test_evaluations_measure_diversity(folder: Path, tmp_path: Path) -> None:
    lines = ["q1\td1\t2\twings", "q1\td2\t1\tengines", "q1\td2\t1\tjets", "q1\td3\t0\tkeels", "q2\td2\t1"]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore\taspect", *lines]) + "\n")
    dataset = find(folder)
    assert dataset.aspects == {"q1": {"d1": {"wings"}, "d2": {"engines", "jets"}}}
    assert dataset.qrels["q1"] == {"d1": 2, "d2": 1, "d3": 0}
    assert dataset.sample(1).aspects.keys() <= {"q1"}
    with collection_of(dataset, encoder="hashing:64", cache=tmp_path) as collection:

        def run(queries):
            return [Hits(collection.chunk_ids(), [0.3, 0.2, 0.1], store=collection) for _ in queries]

        names = ["ILD@2", "StRecall@1", "alpha_nDCG@10", "RR"]
        found = evaluate({"run": run}, dataset, names).runs["run"].values
        first, second = collection.vectors(collection.chunk_ids()[:2])
        cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        assert found["ILD@2"] == pytest.approx({"q1": 1 - cosine, "q2": 1 - cosine}, abs=1e-6)
        assert found["StRecall@1"] == pytest.approx({"q1": 1 / 3})
        expected = (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))
        assert found["alpha_nDCG@10"] == pytest.approx({"q1": expected})
        assert found["RR"] == {"q1": 1.0, "q2": 0.5}
        with pytest.raises(InputError, match="fourth column"):
            evaluate({"run": run}, replace(dataset, aspects={}), ["StRecall@5"])
    with pytest.raises(InputError, match="vectors are not known"):
        judge_diversity(["ILD@5"], {}, {"q": ["d1"]}, {"q": Hits([1], [0.5])})
    with pytest.raises(InputError, match="no measure 'ILD@0'"):
        evaluate({"run": run}, dataset, ["ILD@0"])
