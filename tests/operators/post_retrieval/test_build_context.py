"""Contexts against what they promise: exact spans, the budget, nothing lost without being counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.collection import Collection
from rag.models.scripted import ScriptedModel
from rag.operators.post_retrieval import BuildContext, Top
from rag.operators.post_retrieval.build_context import estimate_tokens
from rag.operators.retrieval import BM25
from rag.pipelines import Pipeline
from rag.types import Chunk, Context, Document, Hits, line_of


class Library:
    """Documents and chunks in memory, with the reading methods of a collection."""

    def __init__(self, documents: dict[str, str], chunks: Sequence[Chunk]) -> None:
        self.documents = documents
        self._chunks = chunks

    def chunks(self, ids: np.ndarray) -> list[Chunk]:
        return [self._chunks[i] for i in ids]

    def texts(self, spans: Sequence[tuple[str, int, int]]) -> list[str]:
        return [self.documents[d][a:b] for d, a, b in spans]

    def lines(self, places: Sequence[tuple[str, int]]) -> list[int]:
        return [line_of(self.documents[d], at) for d, at in places]


def library(documents: dict[str, str], spans: Sequence[tuple[str, int, int, tuple[int, int] | None]]) -> Library:
    return Library(
        documents,
        [Chunk(d, documents[d][a:b], a, b, i, parent) for i, (d, a, b, parent) in enumerate(spans)],
    )


TEXT = st.text(st.sampled_from("ab cde. \n一é😀"), min_size=1, max_size=300)


@st.composite
def libraries(draw: st.DrawFn) -> Library:
    documents = draw(st.dictionaries(st.sampled_from("xyz"), TEXT, min_size=1))
    spans = []
    for _ in range(draw(st.integers(0, 12))):
        name = draw(st.sampled_from(sorted(documents)))
        n = len(documents[name])
        a = draw(st.integers(0, n - 1))
        b = draw(st.integers(a + 1, n))
        around = (draw(st.integers(0, a)), draw(st.integers(b, n))) if draw(st.booleans()) else None
        spans.append((name, a, b, around))
    return library(documents, spans)


def hits(n: int) -> Hits:
    return Hits(np.arange(n), np.linspace(1, 0.1, n))


@given(libraries(), st.integers(16, 120), st.integers(1, 6), st.booleans(), st.booleans())
def test_passages_are_exact_within_the_budget_and_apart(
    lib: Library, budget: int, most: int, parents: bool, counted: bool
):
    llm = ScriptedModel() if counted else None
    build = BuildContext(max_tokens=budget, max_passages=most, parents=parents)
    n = len(lib._chunks)
    context = build.run(hits(n), lib, llm)  # type: ignore[arg-type]
    count = llm.count_tokens if llm else estimate_tokens
    assert sum(count(p.text) for p in context) <= budget
    assert len(context) + context.left_out <= most
    assert [p.number for p in context] == list(range(1, len(context) + 1))
    for p in context:
        assert p.text == lib.documents[p.document][p.start : p.end]
        assert p.line == line_of(lib.documents[p.document], p.start)
        for q in context:
            assert p is q or p.document != q.document or p.end <= q.start or q.end <= p.start
    # Whole chunks or whole parents, or what several of them join to; a cut one says so and is the only first one.
    edges = {(c.document, c.start) for c in lib._chunks} | {(c.document, c.parent[0]) for c in lib._chunks if c.parent}
    ends = {(c.document, c.end) for c in lib._chunks} | {(c.document, c.parent[1]) for c in lib._chunks if c.parent}
    for p in context:
        assert (p.document, p.start) in edges
        assert (p.document, p.end) in ends or p.metadata.get("cut") is True
    # Every chunk that was looked at is in a passage or was counted.
    held = [
        any(p.document == c.document and p.start <= c.start and c.end <= p.end for p in context) for c in lib._chunks
    ]
    if len(context) + context.left_out < most:
        cut = sum(bool(p.metadata.get("cut")) for p in context)
        assert held.count(False) <= context.left_out + cut * n


def context_of(lib: Library, **settings: int | bool) -> Context:
    return BuildContext(**settings).run(hits(len(lib._chunks)), lib)  # type: ignore[arg-type]


def test_chunks_of_one_parent_come_as_one_passage_at_the_best_rank():
    text = "One two. Three four. Five six."
    lib = library({"d": text, "e": "Other."}, [("d", 0, 8, (0, 20)), ("e", 0, 6, None), ("d", 9, 20, (0, 20))])
    context = context_of(lib)
    assert [(p.document, p.start, p.end, p.chunk) for p in context] == [("d", 0, 20, 0), ("e", 0, 6, 1)]
    assert context_of(lib, parents=False).passages[0].text == "One two."


def test_a_span_that_bridges_two_passages_joins_them():
    lib = library({"d": "abcdefghij klmnopqrst"}, [("d", 0, 5, None), ("d", 10, 15, None), ("d", 4, 11, None)])
    assert [(p.start, p.end) for p in context_of(lib)] == [(0, 15)]


def test_a_parent_that_is_too_large_gives_way_to_its_chunk():
    text = "Small one. " + "word " * 200
    lib = library({"d": text}, [("d", 0, 10, (0, len(text)))])
    context = context_of(lib, max_tokens=50)
    assert [p.text for p in context] == ["Small one."]
    assert context.left_out == 0


def test_what_does_not_fit_is_counted_and_smaller_ones_behind_it_still_come():
    text = "A first one. " + "long " * 100 + "end. Short."
    lib = library(
        {"d": text}, [("d", 0, 12, None), ("d", 13, len(text) - 7, None), ("d", len(text) - 6, len(text), None)]
    )
    context = context_of(lib, max_tokens=30)
    assert [p.text for p in context] == ["A first one.", "Short."]
    assert context.left_out == 1


def test_a_first_passage_larger_than_the_budget_ends_with_a_sentence_and_says_that_it_was_cut():
    text = "It has ten words or so in its first sentence. The second sentence is longer than that by far, it is. " * 3
    context = context_of(library({"d": text}, [("d", 0, len(text), None)]), max_tokens=20)
    (passage,) = context
    assert passage.text == "It has ten words or so in its first sentence."
    assert passage.metadata["cut"] is True
    assert (passage.start, passage.end) == (0, 45)


def test_a_first_sentence_larger_than_the_budget_ends_with_a_word():
    text = "word " * 500
    (passage,) = context_of(library({"d": text}, [("d", 0, len(text), None)]), max_tokens=20)
    assert passage.text.endswith("word")
    assert estimate_tokens(passage.text) <= 20


def test_no_hits_make_an_empty_context():
    assert context_of(library({"d": "x"}, [])) == Context()


def test_a_passage_says_its_page_and_keeps_the_rest_of_its_metadata():
    text = "Page one.\fPage two."
    chunk = Chunk("d", "Page two.", 10, 19, 0, metadata={"title": "Book", "pages": [0, 10]})
    (passage,) = BuildContext().run(hits(1), Library({"d": text}, [chunk]))  # type: ignore[arg-type]
    assert dict(passage.metadata) == {"title": "Book", "page": 2}


def test_in_a_pipeline_on_a_collection(tmp_path: Path):
    text = "The reef is made of coral.\nIt glows at night.\n"
    with Collection.create(tmp_path / "kb", encoder="hashing:32") as kb:
        with kb.writer() as writer:
            document = Document("reef.md", text, {"title": "Reef"})
            chunks = [Chunk("reef.md", text[:26], 0, 26), Chunk("reef.md", text[27:45], 27, 45, parent=(0, 45))]
            writer.add([document], [chunks], kb.encoder.encode_documents([c.text for c in chunks]))
            writer.commit()
        kb.refresh()
        for llm in (None, ScriptedModel()):
            pipeline = Pipeline(BM25() >> Top(k=5) >> BuildContext(parents=False), collection=kb, llm=llm)
            state = pipeline.run("what glows at night")
            (passage,) = [p for p in state.context if "glows" in p.text]
            assert (passage.document, passage.start, passage.end, passage.line) == ("reef.md", 27, 45, 2)
            assert passage.metadata["title"] == "Reef"
        (whole,) = Pipeline(BM25() >> BuildContext(), collection=kb).run("what glows at night").context
        assert whole.text == text[:45]


@given(st.lists(st.floats(-5, 5, width=32), max_size=20), st.integers(1, 8), st.none() | st.floats(-5, 5, width=32))
def test_top_keeps_the_first_hits_with_a_sufficient_score(scores: list[float], k: int, least: float | None):
    scores.sort(reverse=True)
    kept = Top(k=k, min_score=least).run(Hits(np.arange(len(scores)), scores))
    assert kept.scores.tolist() == pytest.approx([s for s in scores if least is None or s >= least][:k])
