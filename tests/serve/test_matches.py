"""From tokens that matched to words as people see them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rag.collection import TokenMatch
from rag.serve.matches import WordMatch, print_matches, word_matches


@pytest.mark.parametrize(
    ("text", "piece", "word"),
    [
        ("the halyards hoist", "yar", "halyards"),
        ("snake_case2 name", "case", "snake_case2"),
        ("end.", "end", "end"),
        ("a, b", ",", ","),
        ("le cafe\u0301s noir", "cafe", "cafe\u0301s"),
        ("le cafe\u0301", "cafe", "cafe\u0301"),
        ("كَتَبَ الطالبُ", "ت", "كَتَبَ"),
        ("می\u200cخواهم بروم", "خ", "می\u200cخواهم"),
        ("हिन्दी में", "न", "हिन्दी"),
        ("北京大学的图书馆", "大", "大"),
        ("Tokyo東京", "Tok", "Tokyo"),
        ("Tokyo東京", "東", "東"),
        ("ไม่มี", "ไม", "ไม่"),
        ("한국어를", "국", "국"),
        ("x👩\u200d🔬y", "👩", "👩\u200d🔬"),
        ("x👩\u200d🔬y", "🔬", "👩\u200d🔬"),
        ("ok👍🏽 ❤\ufe0f!", "👍", "👍🏽"),
        ("ok👍🏽 ❤\ufe0f!", "❤", "❤\ufe0f"),
        ("Straße", "ß", "Straße"),
        ("word", "word", "word"),
    ],
)
def test_a_piece_becomes_the_word_that_it_stands_in(text: str, piece: str, word: str):
    begin = text.index(piece)
    span = (begin, begin + len(piece))
    [as_text] = word_matches("q", text, [TokenMatch((0, 1), span, 1.0)])
    assert as_text.text is not None
    assert text[slice(*as_text.text)] == word
    [as_query] = word_matches(text, "t", [TokenMatch(span, (0, 1), 1.0)])
    assert text[slice(*as_query.query)] == word


def test_a_word_is_told_once_with_its_best_piece():
    query, text = "halyards up", "Halyard, sheet"
    pieces = [
        TokenMatch((9, 11), (9, 14), 0.2),
        TokenMatch((0, 3), (9, 14), 0.4),
        TokenMatch((3, 8), (3, 7), 0.9),
        TokenMatch((3, 8), None, 0.3),
    ]
    assert word_matches(query, text, pieces) == [WordMatch((0, 8), (0, 7), 0.9), WordMatch((9, 11), (9, 14), 0.2)]
    assert [match.strength for match in word_matches(query, text, pieces)] == ["strong", "none"]
    assert word_matches("a", "b", [TokenMatch((0, 1), None, 0.6)]) == [WordMatch((0, 1), None, 0.6)]
    assert word_matches("a", "b", []) == []


@pytest.mark.parametrize(
    ("places", "shown"),
    [
        ([], "0000 0001"),
        ([3], "0000 0001"),
        ([30_000], "29998 29999 30000"),
        ([5, 12_345, 12_350], "12343 12344 12345 12346 12347 12348 12349 12350"),
        ([99_999], "99998 99999"),
    ],
)
def test_the_part_of_a_long_text_that_matched_is_printed(places: list[int], shown: str):
    words = [f"{i:04}" for i in range(100_000)]
    text = "  ".join(words)
    matches = [TokenMatch((0, 1), (at := text.index(f" {words[i]}") + 1, at + len(words[i])), 1.0) for i in places]
    console = Console(width=60, record=True, file=io.StringIO())
    print_matches(console, text, " ".join("qrst"[: len(places)]), _each(matches), 50)
    told = " ".join(console.export_text().split())
    assert shown in told
    assert len(told) < 1000
    assert told.startswith("…") == (shown[:4] != "0000")


def _each(matches: list[TokenMatch]) -> list[TokenMatch]:
    """Of a word of the query each."""
    return [TokenMatch((2 * n, 2 * n + 1), match.chunk, match.score) for n, match in enumerate(matches)]


def test_text_is_printed_as_it_is():
    console = Console(width=60, record=True, file=io.StringIO())
    print_matches(console, "a [bold]word[/] \\[x]", "[red]q", [TokenMatch((5, 6), (8, 12), 0.8)], 50)
    assert "a [bold]word[/] \\[x]" in console.export_text()
