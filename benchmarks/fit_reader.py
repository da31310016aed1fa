"""Fit the trees of `ExtractiveAnswer` to SQuAD's training questions: python benchmarks/fit_reader.py

Reads the `train` split of squad_train_sample only, never `test`. Needs `pip install lightgbm` and the default encoder.
Three ensembles, each fitted on what the one before makes of questions that it was not fitted to (three folds):
sentences by words, sentences by words and cosine, spans of the best sentences; then a logistic regression on whether
the context holds an answer. Each question counts with five retrieved paragraphs and with its own paragraph alone.
Writes rag/operators/generation/reader.safetensors.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from safetensors.numpy import save_file
from squad import Cached, Item, Retriever, Squad, data_folder, f1, holds

from rag.encoders import load
from rag.operators.generation import reader as reading
from rag.operators.generation.words import content_stems
from rag.types import Context

OUTPUT = Path(reading.__file__).with_name("reader.safetensors")
FOLDS = 3
KEEP = 4
TREES = {"num_leaves": 15, "learning_rate": 0.08, "min_data_in_leaf": 50, "feature_fraction": 0.7}
SPAN_TREES = {"num_leaves": 24, "learning_rate": 0.1, "min_data_in_leaf": 60, "feature_fraction": 0.6, "max_depth": 8}
COMMON = {"verbose": -1, "seed": 0, "bagging_fraction": 0.8, "bagging_freq": 1, "deterministic": True, "max_bin": 127}
SPAN_RANKING = {"objective": "lambdarank", "lambdarank_truncation_level": 8, "label_gain": [0, 1, 3, 12]}
RANKING = {"objective": "lambdarank", "lambdarank_truncation_level": 5, "label_gain": [0, 1, 3]}


@dataclass
class Case:
    """A question with a context, and what is known about its sentences."""

    item: Item
    fold: int
    found: reading.Candidates
    texts: list[str]
    labels: np.ndarray
    cosines: np.ndarray
    keep: np.ndarray | None = None
    scores: np.ndarray | None = None

    def kept(self, *, meaning: bool) -> np.ndarray:
        """Features of the sentences that were kept."""
        features = self.found.features[self.keep]
        return reading.with_cosines(features, self.cosines[self.keep]) if meaning else features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="questions to use, for a trial")
    parser.add_argument("--cache", type=Path, help="file to keep embeddings in between trials")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    COMMON["num_threads"] = options.threads
    began = time.perf_counter()

    def note(text: str) -> None:
        print(f"{time.perf_counter() - began:6.0f} s  {text}", flush=True)

    squad = Squad(data_folder())
    items = squad.split("train")[: options.limit]
    encoder = Cached(load("all-MiniLM-L6-v2"), options.cache)
    table, idf = document_frequencies(squad, items)
    retriever = Retriever(squad, encoder)
    ranked = retriever([i.question for i in items], encoder.encode_queries([i.question for i in items]), 6)
    five = [squad.context(r[:5]) for r in ranked]
    own = [squad.context([(i.paragraph, 1.0)]) for i in items]
    without = [squad.context([x for x in r if x[0] != i.paragraph][:5]) for i, r in zip(items, ranked, strict=True)]
    cases, absent = (
        describe(items, five, idf, encoder) + describe(items, own, idf, encoder),
        describe(items, without, idf, encoder),
    )
    encoder.save()
    note(f"{len(cases)} contexts with {sum(len(c.labels) for c in cases)} sentences")

    tensors: dict[str, np.ndarray] = {}
    for name, meaning in (("by_words", False), ("by_meaning", True)):
        if not meaning:
            for case in (*cases, *absent):
                case.keep = np.arange(len(case.labels))
        models = [fit_ranking([c for c in cases if c.fold != fold], meaning) for fold in range(FOLDS)]
        for case in (*cases, *absent):
            assert case.keep is not None
            scores = models[case.fold].predict(case.kept(meaning=meaning))
            order = np.argsort(-scores, kind="stable")[:KEEP]
            case.keep, case.scores = case.keep[order], scores[order].astype(np.float32)
        final = fit_ranking(cases, meaning, refit=True)
        tensors |= stored(name, final)
        hit = np.mean([c.labels[c.keep[0]] > 0 for c in cases[: len(items)]])
        note(
            f"{name}: in {hit:.3f} of the questions the first sentence holds an answer (five paragraphs, left-out fold)"
        )

    rng = np.random.default_rng(0)
    spans = [span_rows(c, idf, rng) for c in cases]
    note(f"{sum(len(y) for _, y in spans)} spans")
    left_out = fit_spans([s for s, c in zip(spans, cases, strict=True) if c.fold != 0])
    tensors |= stored("spans", fit_spans(spans))
    del spans
    rows, answers, sure, right = [], [], [], []
    for case in (*cases[: len(items)], *absent):
        if case.fold != 0 or not len(case.labels):
            continue
        assert case.keep is not None
        chosen = [case.found.sentences[r] for r in case.keep]
        at, found, features = reading.span_table(case.found.question, chosen, case.scores, case.kept(meaning=True), idf)
        predicted = left_out.predict(features) if len(found) else np.zeros(1)
        best = int(predicted.argmax())
        rows.append(reading.evidence(case.scores, case.kept(meaning=True), float(predicted[best])))
        answers.append(bool((case.labels[case.keep] > 0).any()))
        if answers[-1] and len(found):
            words = chosen[at[best]].words
            text = words.text[words.starts[found[best, 0]] : words.ends[found[best, 1]]]
            sure.append((1.0, predicted[best]))
            right.append(f1(text, case.item.answers) > 0.5)
    tensors["support"] = logistic(np.array(rows), np.array(answers)).astype(np.float32)
    tensors["span_sure"] = logistic(np.array(sure), np.array(right)).astype(np.float32)
    note(f"spans: {np.mean(right):.3f} of the spans have an F1 above 0.5 where the context holds an answer")
    note(f"support: {np.mean(answers):.3f} of the contexts hold an answer")
    stems = sorted(table)
    tensors["idf.stems"] = np.frombuffer(" ".join(stems).encode(), np.uint8).copy()
    tensors["idf.values"] = np.array([table[s] for s in stems], np.float16)
    save_file(tensors, options.output, metadata={"fitted_by": "benchmarks/fit_reader.py", "data": "SQuAD 1.1 train"})
    note(f"wrote {options.output.name}: {options.output.stat().st_size / 1e3:.0f} kB")


def document_frequencies(squad: Squad, items: Sequence[Item]) -> tuple[dict[str, float], Any]:
    """Inverse document frequencies in the training paragraphs of stems that occur in four or more."""
    paragraphs = sorted({i.paragraph for i in items})
    counts = Counter(s for p in paragraphs for s in content_stems(squad.texts[p]))
    n = len(paragraphs)
    table = {s: math.log1p((n - c + 0.5) / (c + 0.5)) for s, c in counts.items() if c >= 4 and s.isascii()}
    table = {s: float(np.float16(v)) for s, v in table.items() if " " not in s}
    unseen = max(table.values())
    return table, lambda stem: table.get(stem, unseen)


def describe(items: Sequence[Item], contexts: Sequence[Context], idf: Any, encoder: Cached) -> list[Case]:
    cases = []
    questions = encoder.encode_queries([i.question for i in items])
    for row, (item, context) in enumerate(zip(items, contexts, strict=True)):
        found = reading.described(item.question, context, idf)
        places = [(context.passages[s.passage], s) for s in found.sentences]
        texts = [p.text[s.start : s.end] for p, s in places]
        labels = [holds(item, p.document, s.start, s.end, t) for (p, s), t in zip(places, texts, strict=True)]
        cases.append(Case(item, row % FOLDS, found, texts, np.array(labels), np.zeros(0)))
    texts = list(dict.fromkeys(t for case in cases for t in case.texts))
    vectors = dict(zip(texts, encoder.encode_documents(texts), strict=True))
    for case, question in zip(cases, questions, strict=True):
        case.cosines = np.stack([vectors[t] for t in case.texts]) @ question
    return cases


def fit_ranking(cases: Sequence[Case], meaning: bool, refit: bool = False) -> lightgbm.Booster:
    """Trees that put sentences with the answer first. Refitting for use takes the sentences that are kept then."""
    features = np.concatenate([c.kept(meaning=meaning) if not refit or meaning else c.found.features for c in cases])
    labels = [c.labels[c.keep] if not refit or meaning else c.labels for c in cases]
    data = lightgbm.Dataset(features, np.concatenate(labels), group=[len(y) for y in labels])
    return lightgbm.train({**COMMON, **TREES, **RANKING}, data, 120)


def span_rows(case: Case, idf: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features of a question's spans and the grade of their F1 (0 to 3); of the wrong ones a sample."""
    assert case.keep is not None
    chosen = [case.found.sentences[r] for r in case.keep]
    rows, spans, features = reading.span_table(case.found.question, chosen, case.scores, case.kept(meaning=True), idf)
    texts = [
        s.words.text[s.words.starts[a] : s.words.ends[b]]
        for row, (a, b) in zip(rows, spans, strict=True)
        for s in (chosen[row],)
    ]
    scores = np.array([f1(t, case.item.answers) for t in texts], np.float32)
    wrong = (scores == 0).sum()
    keep = (scores > 0) | (rng.random(len(scores)) < 40 / max(wrong, 1))
    return features[keep], np.digitize(scores[keep], (0.5, 0.75, 1.0))


def fit_spans(spans: Sequence[tuple[np.ndarray, np.ndarray]]) -> lightgbm.Booster:
    spans = [s for s in spans if len(s[1])]
    labels = [y for _, y in spans]
    data = lightgbm.Dataset(
        np.concatenate([x for x, _ in spans]), np.concatenate(labels), group=[len(y) for y in labels]
    )
    return lightgbm.train({**COMMON, **SPAN_TREES, **SPAN_RANKING}, data, 160)


def logistic(rows: np.ndarray, answers: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    """Weights of a logistic regression, by Newton's method."""
    weights = np.zeros(rows.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-rows @ weights))
        gradient = rows.T @ (p - answers) + ridge * weights
        curvature = (rows * (p * (1 - p))[:, None]).T @ rows + ridge * np.eye(len(weights))
        weights -= np.linalg.solve(curvature, gradient)
    return weights


def stored(name: str, model: lightgbm.Booster) -> dict[str, np.ndarray]:
    """The trees as `rag.operators.generation.trees.Trees.read` wants them: nodes in preorder."""
    roots: list[int] = []
    feature: list[int] = []
    right: list[int] = []
    threshold: list[float] = []

    def put(node: dict[str, Any]) -> None:
        here = len(feature)
        leaf = "leaf_value" in node
        feature.append(-1 if leaf else node["split_feature"])
        threshold.append(node["leaf_value"] if leaf else node["threshold"])
        right.append(0)
        if not leaf:
            put(node["left_child"])
            right[here] = len(feature) - here
            put(node["right_child"])

    for tree in model.dump_model()["tree_info"]:
        roots.append(len(feature))
        put(tree["tree_structure"])
    values = np.array(threshold, np.float64)
    as_float = values.astype(np.float32)
    return {
        f"{name}.roots": np.array(roots, np.int32),
        f"{name}.feature": np.array(feature, np.int8),
        f"{name}.right": np.array(right, np.int16),
        f"{name}.threshold": as_float,
    }


if __name__ == "__main__":
    main()
