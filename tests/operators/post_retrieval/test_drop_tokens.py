"""Token dropping against its definition, written down plainly for one context and words as tokens."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rag.collection import Collection
from rag.errors import ModelError
from rag.models.local import TransformersModel
from rag.models.scripted import ScriptedModel
from rag.operators.generation import Generate
from rag.operators.post_retrieval import BuildContext, Compress, DropTokens
from rag.operators.post_retrieval.surprise import self_information, words_of
from rag.operators.retrieval import BM25
from rag.pipelines import Pipeline, Run
from rag.types import Context, Passage, Query
from tests.models.tiny import TEXTS, save_tiny_models

SCORER = ScriptedModel()
RESTRICTION = "We can get the answer to this question in the given documents."


def context(*texts: str) -> Context:
    return Context(tuple(Passage(n, n, f"{n}", t, 0, len(t), 1, 1 / n) for n, t in enumerate(texts, 1)), left_out=2)


def log_p(words: list[str], before: list[str]) -> list[float]:
    """The scripted model: a word is as likely as it was frequent."""
    counts, result = Counter(before), []
    for seen, word in enumerate(words, len(before)):
        result.append(math.log((counts[word] + 1) / (seen + 1000)))
        counts[word] += 1
    return result


def shares(lengths: list[int], ranks: list[int], budget: int, spread: float) -> list[int]:
    """Tokens of each passage: the tilted shares, moved alike, by trying all shifts on a fine grid."""
    count = len(lengths)

    def dealt(shift: float) -> list[float]:
        tilt = [spread * (1 - 2 * rank / (count - 1)) if count > 1 else 0.0 for rank in ranks]
        return [min(max(t + shift, 0.0), 1.0) * length for t, length in zip(tilt, lengths, strict=True)]

    low, high = -2.0, 2.0
    while high - low > 1e-13:
        middle = (low + high) / 2
        low, high = (middle, high) if sum(dealt(middle)) < budget else (low, middle)
    exact = dealt(high)
    whole = [math.floor(x + 1e-6) for x in exact]
    by_rest = sorted(range(count), key=lambda i: round(whole[i] - exact[i], 6))
    for i in by_rest[: budget - sum(whole)]:
        whole[i] += 1
    return whole


def dropped(texts: list[str], question: str, budget: int, spread: float, segment: int, by: str) -> list[list[str]]:
    """The words that stay of each text."""
    asked = [*question.split(), *RESTRICTION.split()]
    fit = [sum(log_p(asked, text.split())) for text in texts]
    assume(not any(0 < abs(a - b) < 1e-4 for a in fit for b in fit))  # told apart by the last bits of a float
    ranks = [sorted(range(len(texts)), key=lambda i: -fit[i]).index(i) for i in range(len(texts))]
    lengths = [len(text.split()) for text in texts]
    kept: list[list[str]] = []
    for text, own in zip(texts, shares(lengths, ranks if spread else [0] * len(texts), budget, spread), strict=True):
        words, stay = text.split(), []
        kept.append(stay)
        for start in range(0, len(words), segment):
            part = words[start : start + segment]
            before = [word for passage in kept for word in passage]
            alone = log_p(part, before)
            worth = [-x for x in alone]
            if by == "question":
                worth = [a - b for a, b in zip(log_p(part, [*question.split(), *before]), alone, strict=True)]
            worth = [round(w, 4) for w in worth]
            count = own * (start + len(part)) // len(words) - len(stay)
            best = sorted(range(len(part)), key=lambda i: -worth[i])[: max(count, 0)]
            stay += [part[i] for i in sorted(best)]
    return kept


WORDS = st.lists(st.sampled_from("lake boat summer winter sail ice cold warm the of".split()), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(WORDS, min_size=1, max_size=4),
    st.floats(0.1, 0.9),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(8, 20),
    st.sampled_from(["surprise", "question"]),
)
def test_what_stays_follows_the_definition(words: Any, rate: float, spread: float, segment: int, by: Any):
    texts = [" ".join(own) for own in words]
    total = sum(map(len, words))
    budget = max(round(rate * total), 1)
    question = "when does the lake have ice"
    operator = DropTokens(rate=rate, spread=spread, segment=segment, by=by)
    after = operator.run(Query(question), context(*texts), SCORER)
    if total <= budget:
        assert after == context(*texts)
        return
    got = {p.chunk: p.reading.split() for p in after}
    expected = dropped(texts, question, budget, spread, segment, by)
    assert [len(got.get(n, [])) for n in range(1, len(texts) + 1)] == [len(own) for own in expected]
    assert sum(map(len, got.values())) == budget
    if by == "surprise":  # a question makes words likelier by so little that the last bits of a float decide
        assert got == {n: own for n, own in enumerate(expected, 1) if own}


def test_what_was_said_before_goes_first():
    birds, more = "Gannets nest on Bass Rock", "Gannets nest on Bass Rock with puffins near by it now"
    first, second = DropTokens(rate=0.5, spread=0).run(Query("x"), context(birds, more), SCORER)
    assert len(first.reading.split()) == 3
    assert len(second.reading.split()) == 5
    assert set(first.reading.split()).isdisjoint(second.reading.split())


def test_the_passage_that_fits_the_question_keeps_more():
    lake = "frozen lakes carry boats when winter comes to stay"
    other = "every morning brokers trade shares against cash and bonds"
    question = Query("when do lakes carry boats in winter")
    for texts in ((lake, other), (other, lake)):
        after = DropTokens(rate=0.5, spread=0.3).run(question, context(*texts), SCORER)
        kept = {p.text: len(p.reading.split()) for p in after}
        assert kept == {lake: 7, other: 2}


def test_passages_stay_exact_in_order_and_are_numbered_anew():
    texts = ["a b c d e f g h", "when is it then", "i j k l m n o p"]
    given_context = context(*texts)
    after = DropTokens(rate=0.2, spread=1.0).run(Query("when is it then"), given_context, SCORER)
    assert [p.number for p in after] == list(range(1, len(after) + 1))
    assert after.left_out == 2 + 3 - len(after)
    assert [p.chunk for p in after] == sorted(p.chunk for p in after)
    for p in after:
        assert (p.text, p.start, p.end) == (texts[p.chunk - 1], 0, len(texts[p.chunk - 1]))
        rest = iter(p.text.split())
        assert all(word in rest for word in p.reading.split())  # a subsequence
    assert "[1] when is it then" in str(after)
    assert after.passages[0].shown is None  # nothing is missing


@pytest.mark.parametrize("by", ["surprise", "question"])
def test_a_batch_equals_one_by_one(by: Any):
    contexts = [
        context("a b a c a d" + " a b e" * 8, "e f"),
        Context(),
        context("x"),
        context("g h i" + " g h i" * 11, "a b c d"),
    ]
    queries = [Query("a"), Query("b"), Query("x"), Query("when g")]
    operator = DropTokens(max_tokens=16, segment=8, by=by)
    batch = operator.run_batch(queries, contexts, SCORER)
    assert batch == [operator.run(q, c, SCORER) for q, c in zip(queries, contexts, strict=True)]
    assert batch[1:3] == contexts[1:3]
    assert [sum(len(p.reading.split()) for p in c) for c in batch] == [16, 0, 1, 16]
    assert operator.run_batch([], [], SCORER) == []


def test_a_context_longer_than_the_window_goes_through():
    text = " ".join(f"w{i % 90}" for i in range(2000))
    small = ScriptedModel(context_tokens=100)
    for by in ("surprise", "question"):
        after = DropTokens(rate=0.3, by=by).run(Query("where is w5"), context(text, text[:397]), small)
        assert sum(len(p.reading.split()) for p in after) == round(0.3 * (2000 + len(text[:397].split())))
    (ends, bits), (none, _) = self_information([text, ""], small)
    assert (len(ends), ends[-1], len(none)) == (2000, len(text), 0)
    assert bits.shape == (2000,)
    assert bits[0] == pytest.approx(math.log2(1000))


class ChatOnly:
    name = "openai:some"


def test_a_model_that_only_chats_is_refused_with_a_way_out():
    model: Any = ChatOnly()
    with pytest.raises(ModelError, match=r"drop_tokens needs .*openai:some does not tell.*scorer.*local:NAME"):
        DropTokens().run(Query("x"), context("a b c"), model)


@pytest.mark.parametrize("text", ["", " ", "a", " a  b\n\nc ", "in 1,837.5 km.", "日本語です と", "x" * 500 + " y"])
def test_words_are_the_text(text: str):
    ends = np.arange(1, len(text) + 1)  # every character a token
    words = words_of(text, ends)
    assert "".join(text[a:b] for a, b, _ in words) == text
    assert sum(tokens for _, _, tokens in words) == len(text)
    if "x" not in text and text.isascii():
        assert [text[a:b].strip() for a, b, _ in words if text[a:b].strip()] == text.split()
    if "日" in text:
        assert len(words) == len(text) - 1


def test_the_reader_gets_less_and_citations_stay_exact(kb: Collection):
    generator = ScriptedModel("Renting a boat costs twenty euros an hour [1].")
    flow = BM25(k=1) >> BuildContext() >> DropTokens(rate=0.6) >> Generate()
    pipeline = Pipeline(flow, collection=kb, llm=generator, resources={"scorer": SCORER})
    run = Run()
    state = pipeline.run("what does renting a boat cost", observe=run)
    said = generator.calls[0].messages[-1].content
    (passage,) = state.context
    assert passage.shown is not None
    assert passage.shown in said
    assert passage.text not in said
    (citation,) = state.answer.citations
    assert citation.quote == kb.text(citation.document, citation.start, citation.end) == passage.text
    assert sum(span.usage.prompt_tokens for span in run.spans if span.node.endswith("drop_tokens")) > 0
    again = Compress(max_tokens=16).run(Query("boat"), Context((passage,)))
    assert all(p.shown is None or p is passage for p in again)


@pytest.mark.torch
def test_numbers_and_names_are_never_taken_apart(tmp_path: Path):
    pytest.importorskip("torch", reason="needs the extra `local`")
    pytest.importorskip("transformers", reason="needs the extra `local`")
    folders = save_tiny_models(tmp_path, context=256)
    model = TransformersModel(folders["llama"], threads=1)
    texts = [f"In 1837 {TEXTS[0]}, 日本語 for €1,250.75 😀 or so.", TEXTS[1] * 6]
    for by in ("surprise", "question"):
        after = DropTokens(rate=0.5, segment=24, by=by).run(Query("which question"), context(*texts), model)
        total = sum(map(model.count_tokens, texts))
        assert 0.4 * total < sum(model.count_tokens(p.reading) for p in after) <= 0.5 * total + len(after)
        for p in after:
            whole = [w for w in p.reading.split() if "日" not in w and "本" not in w and "語" not in w]
            assert set(whole) <= set(p.text.replace("日本語", " ").split())
    batch = DropTokens(segment=24).run_batch([Query("a"), Query("b")], [context(*texts), context(texts[0])], model)
    assert batch == [DropTokens(segment=24).run(Query(q), c, model) for q, c in
                     (("a", context(*texts)), ("b", context(texts[0])))]  # fmt: skip


@pytest.mark.torch
@pytest.mark.slow
def test_gemma_drops_what_it_could_have_guessed(gemma: TransformersModel):
    text = (
        "It is well known that Ada Lovelace, who lived from 1815 to 1852, wrote the first program. It was meant for "
        "the Analytical Engine, which was designed by Charles Babbage, and which was never built during his lifetime."
    )
    after = DropTokens(rate=0.5).run(Query("Who wrote the first program?"), context(text), gemma)
    shown = after.passages[0].reading
    assert gemma.count_tokens(shown) <= 0.55 * gemma.count_tokens(text)
    assert {"Ada", "program."} <= set(shown.split())
    assert set(shown.split()) <= set(text.split())
