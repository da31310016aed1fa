"""The lexical index against a plain BM25 over token lists, and against bm25s on real data."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import InputError
from rag.index.lexical import LexicalIndex, merge_lexical, search_lexical
from rag.index.protocol import Matches

WORDS = [f"w{i}" for i in range(12)] + ["été", "straße", "知识", "мир"]
texts_strategy = st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), max_size=40)


def plain_bm25(
    documents: dict[int, str], queries: Sequence[str], k1: float, b: float, allowed: set[int]
) -> list[dict[int, float]]:
    """Scores above zero of the allowed documents, straight from the formula, in float64."""
    bags = {i: Counter(text.split()) for i, text in documents.items()}
    lengths = {i: sum(bag.values()) for i, bag in bags.items()}
    average = sum(lengths.values()) / max(len(bags), 1) or 1.0
    frequency = Counter(term for bag in bags.values() for term in bag)
    results = []
    for query in queries:
        scores: dict[int, float] = {}
        for term in query.split():
            idf = math.log(1 + (len(bags) - frequency[term] + 0.5) / (frequency[term] + 0.5))
            for i, bag in bags.items():
                if bag[term] and i in allowed:
                    tf = bag[term]
                    part = idf * tf / (tf + k1 * (1 - b + b * lengths[i] / average))
                    scores[i] = scores.get(i, 0.0) + part
        results.append(scores)
    return results


def assert_equals_plain(matches: Matches, expected: list[dict[int, float]], k: int) -> None:
    for ids, scores, plain in zip(matches.ids.tolist(), matches.scores.tolist(), expected, strict=True):
        n = min(k, len(plain))
        assert all(i == -1 for i in ids[n:])
        assert all(s == -math.inf for s in scores[n:])
        best = sorted(plain.values(), reverse=True)[:n]
        np.testing.assert_allclose(scores[:n], best, rtol=1e-5)
        np.testing.assert_allclose(scores[:n], [plain[i] for i in ids[:n]], rtol=1e-5)
        assert len(set(ids[:n])) == n
        pairs = list(zip((-s for s in scores[:n]), ids[:n], strict=True))
        assert pairs == sorted(pairs), "best first, ties by the smaller id"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_search_equals_the_formula_over_segments_deletes_and_filters(data: st.DataObject) -> None:
    texts = data.draw(texts_strategy)
    ids = data.draw(st.permutations(range(0, 3 * len(texts), 3)))
    documents = dict(zip(ids, texts, strict=True))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(texts)), max_size=3)))
    bounds = list(zip([0, *cuts], [*cuts, len(texts)], strict=True))
    segments = [LexicalIndex.build(ids[i:j], texts[i:j], language="none") for i, j in bounds]
    deleted = data.draw(st.sets(st.sampled_from(ids))) if ids else set()
    wanted = data.draw(st.none() | st.sets(st.integers(0, 3 * len(texts) + 5)))
    queries = data.draw(st.lists(st.lists(st.sampled_from([*WORDS, "unknown"]), max_size=6).map(" ".join), max_size=4))
    k = data.draw(st.integers(1, 60))
    k1, b = data.draw(st.floats(0, 3)), data.draw(st.floats(0, 1))
    kept = {i: text for i, text in documents.items() if i not in deleted}
    expected = plain_bm25(kept, queries, k1, b, set(kept) & wanted if wanted is not None else set(kept))
    gone = np.array(sorted(deleted), np.int64)
    chosen = None if wanted is None else np.array(sorted(wanted), np.int64)

    matches = search_lexical(segments, queries, k, filter=chosen, deleted=gone, k1=k1, b=b, threads=2)
    assert matches.ids.shape == matches.scores.shape == (len(queries), k)
    assert_equals_plain(matches, expected, k)

    merged = merge_lexical(segments, gone)
    assert merged.ids.tolist() == sorted(kept)
    again = search_lexical([merged], queries, k, filter=chosen, k1=k1, b=b)
    np.testing.assert_array_equal(again.ids, matches.ids)
    np.testing.assert_array_equal(again.scores, matches.scores)


@pytest.mark.parametrize("share", [1.0, 0.01])
def test_search_equals_the_formula_beyond_one_window_of_rows(share: float) -> None:
    rng = np.random.default_rng(0)
    n = 40_000
    common = rng.random((n, 3)) < share * np.array([0.9, 0.3, 0.002])
    texts = [" ".join(w for w, there in zip(("aa", "bb", "cc"), row, strict=True) if there) for row in common]
    allowed = np.unique(rng.integers(0, n, n // 2))
    index = LexicalIndex.build(np.arange(n), texts, language="none")
    queries = ["aa bb cc", "cc", "bb cc cc"]
    for chosen in (None, allowed):
        expected = plain_bm25(dict(enumerate(texts)), queries, 0.9, 0.4, set(range(n) if chosen is None else chosen))
        assert_equals_plain(search_lexical([index], queries, 100, filter=chosen), expected, 100)


def test_results_without_a_match_are_padded() -> None:
    index = LexicalIndex.build([4, 2], ["the wings of birds", ""])
    matches = search_lexical([index], ["", "the of and", "engine", "wing"], 2)
    assert matches.ids.tolist() == [[-1, -1], [-1, -1], [-1, -1], [4, -1]]
    assert np.isneginf(matches.scores[:3]).all()
    assert search_lexical([], ["wing"], 2).ids.tolist() == [[-1, -1]]
    assert search_lexical([index], [], 2).ids.shape == (0, 2)
    assert search_lexical([LexicalIndex.build([], [])], ["wing"], 1).ids.tolist() == [[-1]]


def test_words_are_stemmed_and_normalised() -> None:
    index = LexicalIndex.build([1, 2, 3], ["Efﬁcient RUNNERS ran", "cafe\u0301 crème", "ＦＵＬＬ width"])
    for query, wanted in [("efficiency", 1), ("runner", 1), ("CAFÉ", 2), ("full", 3)]:
        assert search_lexical([index], [query], 1).ids.tolist() == [[wanted]], query
    german = LexicalIndex.build([1], ["die Häuser"], language="german")
    assert search_lexical([german], ["Haus"], 1).ids.tolist() == [[1]]
    exact = LexicalIndex.build([1], ["the runners"], language="none")
    assert search_lexical([exact], ["runner"], 1).ids.tolist() == [[-1]]
    assert search_lexical([exact], ["the"], 1).ids.tolist() == [[1]]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("北京大学位于中国首都北京", "北京大学"),
        ("東京タワーは東京にあります", "タワー"),
        ("서울은 대한민국의 수도이다", "대한민국"),
        ("ภาษาไทยเป็นภาษาราชการ", "ภาษาไทย"),
        ("Python编程语言", "编程"),
        ("Python编程语言", "python"),
        ("हिन्दी भारत की भाषा है", "हिन्दी"),
        ("字", "字"),
        ("日 \ud800 surrogate", "surrogate"),
    ],
)
def test_no_script_vanishes(text: str, query: str) -> None:
    index = LexicalIndex.build([7, 8], [text, "something else 另外"])
    assert search_lexical([index], [query], 2).ids.tolist() == [[7, -1]]


@pytest.fixture
def data() -> Path:
    folder = Path(os.environ.get("RAG_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}: set RAG_DATA")
    return folder


@pytest.mark.parametrize("name", ["cranfield", "scifact"])
def test_scores_equal_bm25s_on_real_data(data: Path, name: str) -> None:
    bm25s = pytest.importorskip("bm25s")
    import Stemmer

    corpus = data / name / ("corpus.jsonl.gz" if name == "scifact" else "corpus.jsonl")
    with (gzip.open if corpus.suffix == ".gz" else open)(corpus, "rt", encoding="utf-8") as file:
        documents = [json.loads(line) for line in file]
    # bm25s neither normalises characters nor pairs unspaced ones: compare where that does not matter.
    texts = [re.sub(r"[^\x00-\x7f]", " ", f"{d['title']} {d['text']}") for d in documents]
    with open(data / name / "queries.jsonl", encoding="utf-8") as file:
        queries = [re.sub(r"[^\x00-\x7f]", " ", json.loads(line)["text"]) for line in file]

    how = {"stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
    peer = bm25s.BM25(method="lucene", k1=0.9, b=0.4, backend="numpy")
    peer.index(bm25s.tokenize(texts, **how), show_progress=False)
    theirs = peer.retrieve(bm25s.tokenize(queries, **how), k=100, show_progress=False)
    ours = search_lexical([LexicalIndex.build(np.arange(len(texts)), texts)], queries, 100)
    scores = np.where(np.isneginf(ours.scores), 0, ours.scores)  # bm25s fills up with texts that score 0
    np.testing.assert_allclose(scores, theirs.scores, rtol=1e-5)
    for ids, row, their_ids, their_row in zip(ours.ids, scores, theirs.documents, theirs.scores, strict=True):
        certain = row > row[-1] * (1 + 1e-5)  # what ties at the end may be cut off differently
        assert set(ids[certain]) <= set(their_ids)
        by_id = dict(zip(their_ids.tolist(), their_row.tolist(), strict=True))
        np.testing.assert_allclose(row[certain], [by_id[i] for i in ids[certain].tolist()], rtol=1e-5)


def test_threads_give_the_same_and_may_search_side_by_side() -> None:
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, 8)) for _ in range(500)]
    queries = [" ".join(rng.choice(WORDS, 3)) for _ in range(50)]
    index = LexicalIndex.build(np.arange(500), texts)
    one = search_lexical([index], queries, 20, threads=1)
    found: list[Matches] = []
    callers = [
        threading.Thread(target=lambda: found.append(search_lexical([index], queries, 20, threads=3))) for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4
    for matches in found:
        np.testing.assert_array_equal(matches.ids, one.ids)
        np.testing.assert_array_equal(matches.scores, one.scores)


def test_a_count_beyond_one_byte_is_exact(tmp_path) -> None:
    texts = ["aa " * 70_000, "aa " * 300, "aa bb"]
    index = LexicalIndex.build([0, 1, 2], texts, language="none")
    index.save(tmp_path / "index")
    expected = plain_bm25(dict(enumerate(texts)), ["aa"], 0.9, 0.4, {0, 1, 2})
    assert_equals_plain(search_lexical([LexicalIndex.open(tmp_path / "index")], ["aa"], 3), expected, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: LexicalIndex.build([1], ["a", "b"]), "2 texts but ids of shape"),
        (lambda i: LexicalIndex.build([1, 1], ["a", "b"]), "id 1 is given more than once"),
        (lambda i: LexicalIndex.build([-1], ["a"]), "id -1 is negative"),
        (lambda i: LexicalIndex.build([1], ["a"], language="englich"), "'englich'.*did you mean 'english'"),
        (lambda i: search_lexical([i], ["a"], 0), "k is 0"),
        (lambda i: search_lexical([i], ["a"], 1, k1=-1.0), "k1 is -1"),
        (lambda i: search_lexical([i], ["a"], 1, b=1.5), "b is 1.5"),
        (lambda i: search_lexical([i], ["a"], 1, threads=-1), "threads is -1"),
        (lambda i: search_lexical([i], ["a"], 1, filter=np.array([2, 1])), "filter ids are not sorted"),
        (lambda i: search_lexical([i], ["a"], 1, deleted=np.array([2, 2])), "deleted ids are not sorted"),
        (lambda i: merge_lexical([]), "no index to merge"),
        (lambda i: merge_lexical([i, i]), "id 1 is in two"),
        (lambda i: merge_lexical([i, LexicalIndex.build([2], ["a"], language="none")]), "english, none"),
    ],
)
def test_wrong_arguments_are_named(call, message) -> None:
    with pytest.raises(InputError, match=message):
        call(LexicalIndex.build([1], ["a text"]))
