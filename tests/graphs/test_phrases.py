"""Names in text by their capitals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.graphs.extract.phrases import name_key, phrases


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("After the war, Hank Snow's son moved to Nashville.", ["Hank Snow's", "Nashville"]),
        ("He joined the U.S. Navy. In 1963 he left.", ["U.S. Navy", "1963"]),
        ("J. R. R. Tolkien wrote it. Then others read it.", ["J. R. R. Tolkien"]),
        (
            "The University of Oslo and Duke University agreed.",
            ["University of Oslo and Duke University", "University of Oslo", "Duke University"],
        ),
        ("Ludwig van Beethoven met Johann Wolfgang von Goethe", ["Ludwig van Beethoven", "Johann Wolfgang von Goethe"]),
        ("Она живёт в Санкт-Петербурге, сказал Élan", ["Она", "Санкт-Петербурге", "Élan"]),
        ("nothing here has capitals, nor 12 or 12345", []),
        ("日本の首都は東京です", []),
        ("", []),
    ],
)
def test_names_are_found_where_they_stand(text: str, expected: list[str]):
    assert [text[phrase.start : phrase.stop] for phrase in phrases(text)] == expected


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Mercury (planet)", "mercury"),
        ("The Beatles’", "beatles"),
        ("Hank Snow's", "hank snow"),
        ("J. R. R. Tolkien", "j r r tolkien"),
        ("ＡＢＣ  Straße", "abc strasse"),
        ("U.S. Navy", "us navy"),
        ("The", ""),
        ("(only this)", ""),
    ],
)
def test_a_name_is_known_by_its_key(name: str, key: str):
    assert name_key(name) == key


@given(st.text(st.sampled_from("AbÉя. ,'’-&1 9and(of)\n"), max_size=60))
def test_every_phrase_is_a_place_in_the_text_with_its_key(text: str):
    found = phrases(text)
    assert len(set(found)) == len(found)
    for phrase in found:
        surface = text[phrase.start : phrase.stop]
        assert surface == surface.strip()
        assert phrase.key == name_key(surface)
        assert sum(letter.isalnum() for letter in phrase.key) >= 3
