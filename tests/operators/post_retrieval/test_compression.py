"""Compression: exact spans, the budget, what is near or says much is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.collection import Collection
from rag.encoders import load
from rag.models.scripted import ScriptedModel
from rag.operators.indexing import sentences
from rag.operators.post_retrieval import BuildContext, Compress, SelectiveContext
from rag.operators.post_retrieval.build_context import estimate_tokens
from rag.operators.post_retrieval.pieces import places_of, with_places
from rag.operators.retrieval import BM25
from rag.pipelines import Pipeline
from rag.types import Chunk, Context, Document, Passage, Query, line_of

ENCODER = load("hashing:64")
SENTENCES = ["Boats sail in summer.", "The lake is deep and cold.", "It rains.", "Renting boats costs twenty euros."]


def passage(text: str, start: int, end: int, row: int, **metadata: Any) -> Passage:
    return Passage(row + 1, row, "d", text[start:end], start, end, line_of(text, start), 1.0 - row / 10, metadata)


@st.composite
def contexts(draw: st.DrawFn) -> tuple[str, Context]:
    pieces = draw(st.lists(st.sampled_from([*SENTENCES, "\n", "\n\n", "...", "😀 Yes!"]), max_size=30))
    text = " ".join(pieces)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    spans = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if a < b]
    return text, Context(tuple(passage(text, a, b, row) for row, (a, b) in enumerate(spans)), 2)


@given(contexts(), st.data())
def test_pieces_are_exact(made: tuple[str, Context], data: st.DataObject):
    text, context = made
    places = places_of(context)
    kept = data.draw(st.sets(st.sampled_from(range(len(places))))) if places else set()
    after = with_places(context, places, kept)
    assert [p.number for p in after] == list(range(1, len(after) + 1))
    for p in after:
        assert p.text == text[p.start : p.end]
        assert p.line == line_of(text, p.start)
    said = [context.passages[row].text[a:b] for i, (row, a, b) in enumerate(places) if i in kept]
    assert "".join("".join(p.text for p in after).split()) == "".join("".join(said).split())
    assert after.left_out == 2 + len({p.chunk for p in context} - {p.chunk for p in after})


@given(contexts(), st.integers(16, 60), st.sampled_from(["meaning", "words"]), st.booleans())
def test_compression_keeps_to_the_budget(made: tuple[str, Context], budget: int, by: Any, counted: bool):
    _, context = made
    llm = ScriptedModel() if counted else None
    count = llm.count_tokens if llm else estimate_tokens
    after = Compress(max_tokens=budget, by=by).run(Query("boats"), context, ENCODER, llm)
    if sum(count(context.passages[row].text[a:b]) for row, a, b in places_of(context)) <= budget:
        assert after == context
    else:
        kept = [count(p.text[a:b]) for p in after for _, a, b in places_of(Context((p,)))]
        assert sum(kept) <= budget or len(kept) == 1


@pytest.mark.parametrize("by", ["meaning", "words"])
def test_what_is_nearest_is_kept(by: Any):
    text = " ".join(SENTENCES + ["The lake lies far off in a wide and empty land."] * 5)
    context = Context((passage(text, 0, len(text), 0),))
    after = Compress(max_tokens=16, by=by).run(Query("what does renting boats cost in euros?"), context, ENCODER)
    assert "Renting boats costs twenty euros." in str(after)
    assert len(str(after)) < len(text) / 2


def test_a_sentence_larger_than_the_budget_is_not_cut():
    text = "Boats and " + "more boats and " * 20 + "boats. It rains."
    after = Compress(max_tokens=16, by="words").run(Query("boats"), Context((passage(text, 0, len(text), 0),)))
    assert [p.text for p in after] == [text[: text.index(" It rains")]]


def test_compression_of_a_batch():
    texts = [" ".join(SENTENCES * 4), "It rains.", ""]
    given_contexts = [Context((passage(t, 0, len(t), 0),)) if t else Context() for t in texts]
    queries = [Query("boats"), Query("rain"), Query("x")]
    operator = Compress(max_tokens=20)
    batch = operator.run_batch(queries, given_contexts, ENCODER)
    assert batch == [operator.run(q, c, ENCODER) for q, c in zip(queries, given_contexts, strict=True)]
    assert batch[1:] == given_contexts[1:]
    assert operator.run_batch([], [], ENCODER) == []


class Store:
    def chunks(self, ids: np.ndarray) -> list[Chunk]:
        return [Chunk("d", "", 0, 0, int(i), metadata={"pages": [0, 22]}) for i in ids]


def test_a_piece_says_the_page_on_which_it_begins():
    text = " ".join(SENTENCES)
    context = Context((passage(text, 0, len(text), 0, page=1, title="Book"),))
    places = places_of(context)
    assert with_places(context, places, {0}).passages[0].metadata == {"page": 1, "title": "Book"}
    assert with_places(context, places, {1}).passages[0].metadata == {"title": "Book"}
    assert with_places(context, places, {1}, Store()).passages[0].metadata == {"page": 2, "title": "Book"}


@pytest.fixture
def talk(tmp_path: Path) -> Any:
    common, rare = "It is as it is.", "Gannets nest on Bass Rock."
    text = f"{common} {rare} {common} {common}"
    with Collection.create(tmp_path / "kb", encoder="hashing:64") as kb:
        with kb.writer() as writer:
            writer.add([Document("d", text)], [[Chunk("d", text, 0, len(text))]], kb.encoder.encode_documents([text]))
            writer.commit()
        kb.refresh()
        yield kb


def test_what_says_least_is_dropped(talk: Collection):
    text = talk.text("d")
    context = Context((passage(text, 0, len(text), 0),))
    (kept,) = SelectiveContext(drop=0.9).run(context, talk)
    assert kept.text == "Gannets nest on Bass Rock."
    assert text[kept.start : kept.end] == kept.text
    assert str(SelectiveContext(drop=0.6).run(context, talk)) == "[1] It is as it is. Gannets nest on Bass Rock."
    assert SelectiveContext(drop=0).run(context, talk).passages[0].text == text
    assert SelectiveContext().run(Context(), talk) == Context()


def test_self_information_is_that_of_the_counts(talk: Collection):
    from rag.operators.post_retrieval.selective_context import _surprise

    # "It is as it is." three times, "Gannets nest on Bass Rock." once; one is added to each, and to what is unseen.
    words = {"it": 6, "is": 6, "as": 3, "gannets": 1, "nest": 1, "on": 1, "bass": 1, "rock": 1}
    total = sum(words.values()) + len(words) + 1
    expected = np.mean([np.log2(total / (words.get(w, 0) + 1)) for w in ("it", "as", "penguin")])
    assert _surprise(talk, 5000).mean("It, as penguin") == pytest.approx(expected)


def by_definition(texts: list[str], drop: float) -> list[str]:
    """The sentences that stay: each passage scored word by word behind what it says before."""
    rated: list[tuple[float, int, str]] = []
    for text in texts:
        scored = SCORER.score("", text)
        at = 0
        for sentence in (text[a:b] for a, b in sentences(text)):
            words = len(sentence.split())
            rated.append((float(-scored.logprobs[at : at + words].mean() / np.log(2)), -len(rated), sentence))
            at += words
    gone = sorted(rated)[: int(drop * len(rated))]
    return [sentence for _, _, sentence in (rating for rating in rated if rating not in gone)]


SCORER = ScriptedModel()


@given(
    st.lists(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=5), min_size=1, max_size=3), st.floats(0, 0.9)
)
def test_self_information_is_that_of_the_language_model(said: list[list[str]], drop: float):
    texts = [" ".join(own) for own in said]
    context = Context(tuple(passage(t, 0, len(t), row) for row, t in enumerate(texts)))
    unused: Any = None
    (after,) = SelectiveContext(drop=drop).run_batch([context], unused, SCORER)
    assert " ".join(p.text for p in after).split() == " ".join(by_definition(texts, drop)).split()


def test_where_no_model_scores_words_are_counted(talk: Collection):
    context = Context((passage(talk.text("d"), 0, len(talk.text("d")), 0),))
    counted = SelectiveContext(drop=0.6).run(context, talk)

    class ChatOnly:
        name = "openai:some"

    chats: Any = ChatOnly()
    assert SelectiveContext(drop=0.6).run(context, talk, chats) == counted
    assert SelectiveContext(drop=0.6, by="words").run(context, talk, SCORER) == counted
    flow = BM25(k=1) >> BuildContext() >> SelectiveContext(drop=0.6)
    # A model that scores finds out by itself that the first sentence was said already.
    said = [str(Pipeline(flow, collection=talk, llm=llm).run("rock").context) for llm in (None, SCORER)]
    assert said == [str(counted), "[1] It is as it is. Gannets nest on Bass Rock."]


def test_selection_in_a_batch(talk: Collection):
    texts = [" ".join(SENTENCES), "It rains. It rains.", ""]
    contexts = [Context((passage(t, 0, len(t), 0),)) if t else Context() for t in texts]
    for scorer in (SCORER, None):
        operator = SelectiveContext(drop=0.5)
        batch = operator.run_batch(contexts, talk, scorer)
        assert batch == [operator.run(c, talk, scorer) for c in contexts]
        assert [len(places_of(c)) for c in batch] == [2, 1, 0]
        assert operator.run_batch([], talk, scorer) == []


def test_in_a_pipeline(kb: Collection):
    flow = BM25(k=4) >> BuildContext() >> SelectiveContext(drop=0.5) >> Compress(max_tokens=16)
    state = Pipeline(flow, collection=kb).run("what does renting a boat cost")
    assert "twenty euros" in str(state.context)
    for p in state.context:
        assert kb.text(p.document, p.start, p.end) == p.text
