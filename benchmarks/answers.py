"""Answers without a language model, on SQuAD questions: python benchmarks/answers.py [--quick]

Questions: the fixed sample of 2,000 of squad_train_sample's `test` split (the rule in the data's README), whose
articles the reader was never fitted to. Two settings: with the paragraph that the question was asked about, and
with the five best of all 4,514 paragraphs (BM25 and dense, fused). Writes benchmarks/results/answers.{md,json}.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from squad import Cached, Item, Retriever, Squad, data_folder, exact_match, f1, holds

from rag.encoders import load
from rag.operators.generation import ExtractiveAnswer
from rag.operators.generation.citations import cite
from rag.operators.generation.reader import Reader, described
from rag.operators.generation.sentence_features import SENTENCE_FEATURES
from rag.types import Answer, Context, Query

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 questions; writes no results")
    parser.add_argument("--cache", type=Path, help="file to keep embeddings in between runs")
    options = parser.parse_args()
    squad = Squad(data_folder())
    items = squad.split("test", 2000)[: 100 if options.quick else None]
    native = load("all-MiniLM-L6-v2")
    encoder = Cached(native, options.cache)
    questions = [Query(i.question) for i in items]
    vectors = encoder.encode_queries([q.text for q in questions])
    ranked = Retriever(squad, encoder)([q.text for q in questions], vectors, 6)
    settings = {
        "its paragraph": [squad.context([(i.paragraph, 1.0)]) for i in items],
        "five retrieved": [squad.context(r[:5]) for r in ranked],
    }
    elsewhere = {i.paragraph for i in squad.split("train")}
    far = Retriever(squad, encoder, elsewhere)([q.text for q in questions], vectors, 5)
    other = [squad.context(r) for r in far]
    removed = [squad.context([x for x in r if x[0] != i.paragraph][:5]) for i, r in zip(items, ranked, strict=True)]
    reached = np.mean([i.paragraph in dict(r[:5]) for i, r in zip(items, ranked, strict=True)])
    print(f"{len(items)} questions; the paragraph is among the five retrieved for {reached:.3f}")
    rows: list[dict[str, Any]] = []

    def record(case: str, setting: str, metric: str, value: float, n: int) -> None:
        rows.append({"case": case, "setting": setting, "metric": metric, "ours": value, "n": n})

    def measure(case: str, setting: str, answers: Sequence[Answer], of: Sequence[Item]) -> None:
        values = {
            "EM": np.mean([exact_match(a.text, i.answers) for a, i in zip(answers, of, strict=True)]),
            "F1": np.mean([f1(a.text, i.answers) for a, i in zip(answers, of, strict=True)]),
            "cited sentence holds an answer": np.mean([_cited(a, i) for a, i in zip(answers, of, strict=True)]),
        }
        print(f"{setting:15} {case:34}", "  ".join(f"{k} {v:.3f}" for k, v in values.items()), f"n={len(of)}")
        for metric, value in values.items():
            record(case, setting, metric, float(value), len(of))

    for setting, contexts in settings.items():
        for name, score in (("best sentence by BM25", _bm25), ("best sentence by cosine", _cosine)):
            measure(
                name,
                setting,
                [_best(q, c, score(q, c, encoder)) for q, c in zip(questions, contexts, strict=True)],
                items,
            )
        for form in ("sentence", "span"):
            operator = ExtractiveAnswer(form=form, min_support=0)
            measure(f"ExtractiveAnswer, {form}", setting, operator.run_batch(questions, contexts, encoder), items)
        for compare in (1, 4):
            operator = ExtractiveAnswer(form="span", min_support=0, compare=compare)
            answers = operator.run_batch(questions, contexts, encoder)
            measure(f"ExtractiveAnswer, span, compare={compare}", setting, answers, items)
    encoder.save()

    print("\nrefusals at min_support: share of answerable questions refused, and of the others answered")
    operator = ExtractiveAnswer(min_support=0)
    present = operator.run_batch(questions, settings["five retrieved"], encoder)
    absent = operator.run_batch(questions, removed, encoder)
    foreign = np.array([a.score for a in operator.run_batch(questions, other, encoder)])
    answerable = [
        any(holds(i, p.document, 0, len(p.text), p.text) for p in c)
        for i, c in zip(items, settings["five retrieved"], strict=True)
    ]
    gone = [
        not any(holds(i, p.document, 0, len(p.text), p.text) for p in c) for i, c in zip(items, removed, strict=True)
    ]
    support = np.array([a.score for a, ok in zip(present, answerable, strict=True) if ok])
    false = np.array([a.score for a, ok in zip(absent, gone, strict=True) if ok])
    for threshold in (0.1, 0.2, 0.3, 0.4, 0.5):
        refused, answered = float((support < threshold).mean()), float((false >= threshold).mean())
        print(f"  {threshold:.1f}: refused {refused:.3f} (n={len(support)})  answered {answered:.3f} (n={len(false)})")
        record(f"min_support {threshold}", "five retrieved", "false refusals", refused, len(support))
        unrelated = float((foreign >= threshold).mean())
        print(f"       unrelated documents answered {unrelated:.3f} (n={len(foreign)})")
        record(f"min_support {threshold}", "other articles only", "false answers", unrelated, len(foreign))
        record(f"min_support {threshold}", "paragraph removed", "false answers", answered, len(false))
    area = float(np.mean(support[:, None] > false[None, :]))
    record("support", "five retrieved", "area under the curve", area, len(support))
    print(f"  area under the curve {area:.3f}")

    one_thread = load("all-MiniLM-L6-v2")
    one_thread.threads = 1  # type: ignore[attr-defined]
    for name, enc in (("all", one_thread), ("without encoding", encoder)):
        seconds = []
        for question, context in list(zip(questions, settings["five retrieved"], strict=True))[:100]:
            began = time.process_time()
            ExtractiveAnswer().run(question, context, enc)
            seconds.append(time.process_time() - began)
        ms = statistics.median(seconds) * 1e3
        record(f"ExtractiveAnswer, {name}", "five retrieved", "ms a question (CPU, median)", ms, len(seconds))
        print(f"ExtractiveAnswer {name}: median {ms:.1f} ms of CPU time a question")

    if not options.quick:
        write(rows, len(items), reached)


def _bm25(query: Query, context: Context, encoder: Cached) -> np.ndarray:
    found = described(query.text, context, Reader.packaged().idf)
    return found.features[:, SENTENCE_FEATURES.index("bm25")]


def _cosine(query: Query, context: Context, encoder: Cached) -> np.ndarray:
    found = described(query.text, context, Reader.packaged().idf)
    texts = [context.passages[s.passage].text[s.start : s.end] for s in found.sentences]
    return encoder.encode_documents(texts) @ encoder.encode_queries([query.text])[0]


def _best(query: Query, context: Context, scores: np.ndarray) -> Answer:
    sentence = described(query.text, context, Reader.packaged().idf).sentences[int(scores.argmax())]
    citation = cite(context.passages[sentence.passage], sentence.start, sentence.end)
    return Answer(citation.quote, (citation,))


def _cited(answer: Answer, item: Item) -> bool:
    return any(holds(item, c.document, c.start, c.end, c.quote) for c in answer.citations)


def write(rows: list[dict[str, Any]], n: int, reached: float) -> None:
    RESULTS.mkdir(exist_ok=True)
    for row in rows:
        row |= {"unit": "ms" if row["metric"].startswith("ms") else "share", "threads": 1}
    (RESULTS / "answers.json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    lines = [
        "# Answers without a language model",
        "",
        f"squad_train_sample, split `test`, {n} questions; the paragraph asked about is among the five retrieved for",
        f"{reached:.3f} of them.",
        f"Python {platform.python_version()}, {platform.machine()}. EM and F1 by SQuAD 1.1's rules.",
        "Command: `python benchmarks/answers.py`",
        "",
        "| setting | case | metric | value | n |",
        "|---|---|---|---|---|",
        *(f"| {r['setting']} | {r['case']} | {r['metric']} | {r['ours']:.3f} | {r['n']} |" for r in rows),
    ]
    (RESULTS / "answers.md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
