"""The filter language against a plain reading of the same expression, row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.collection import Collection
from rag.collection.columns import Columns
from rag.collection.filters import parse
from rag.errors import ConfigError, RagError
from rag.types import Document
from tests.collection.samples import ENCODER, chunked, document, put

FIELDS = ["year", "venue", "tags", "draft", "author.name", "odd name"]
TEXTS = st.sampled_from(["", "ACL", "acl 2020", 'quo"te', "back\\slash", "new\nline", "Straße", "2020"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 2.0, -1.0, 2**60, 1e300]), TEXTS
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
METADATA = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5)

# An expression is a tree (kind, ...); it is written out as text, and read by `holds` as it stands.
SIDES = st.one_of(st.tuples(st.just("field"), st.sampled_from(FIELDS)), st.tuples(st.just("value"), VALUES))
LEAVES = st.one_of(
    st.tuples(st.just("compare"), st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in"]), SIDES, SIDES),
    st.tuples(st.just("chain"), SIDES, SIDES, SIDES),
    st.tuples(st.sampled_from(["startswith", "endswith", "contains"]), st.sampled_from(FIELDS), TEXTS),
    st.tuples(st.just("exists"), st.sampled_from(FIELDS)),
    st.tuples(st.just("true"), st.sampled_from(FIELDS)),
)
TREES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.just("and"), inner, inner),
        st.tuples(st.just("or"), inner, inner),
    ),
    max_leaves=8,
)


def written(tree: Any) -> str:
    kind, *parts = tree
    if kind == "field" or kind == "true":
        return f"`{parts[0]}`" if " " in parts[0] else parts[0]
    if kind == "value":
        return json.dumps(parts[0], ensure_ascii=False)
    if kind == "compare":
        return f"{written(parts[1])} {parts[0]} {written(parts[2])}"
    if kind == "chain":
        return f"{written(parts[0])} <= {written(parts[1])} < {written(parts[2])}"
    if kind == "not":
        return f"not ({written(parts[0])})"
    if kind in ("and", "or"):
        return f"({written(parts[0])}) {kind} ({written(parts[1])})"
    rest = "" if kind == "exists" else ", " + json.dumps(parts[1], ensure_ascii=False)
    return f"{kind}({written(('field', parts[0]))}{rest})"


ABSENT = object()


def holds(tree: Any, row: dict[str, Any]) -> bool:
    kind, *parts = tree
    if kind == "not":
        return not holds(parts[0], row)
    if kind == "and":
        return holds(parts[0], row) and holds(parts[1], row)
    if kind == "or":
        return holds(parts[0], row) or holds(parts[1], row)
    if kind == "chain":
        return compared("<=", side(parts[0], row), side(parts[1], row)) and compared(
            "<", side(parts[1], row), side(parts[2], row)
        )
    if kind == "compare":
        return compared(parts[0], side(parts[1], row), side(parts[2], row))
    value = row.get(parts[0], ABSENT)
    if kind == "exists":
        return value is not ABSENT
    if kind == "true":
        return value is True
    texts = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]
    if kind == "contains":
        return any(parts[1].casefold() in text.casefold() for text in texts)
    return any(getattr(text, kind)(parts[1]) for text in texts)


def side(tree: Any, row: dict[str, Any]) -> Any:
    return tree[1] if tree[0] == "value" else row.get(tree[1], ABSENT)


def compared(sign: str, left: Any, right: Any) -> bool:
    if left is ABSENT or right is ABSENT:
        return False
    if sign in ("==", "!="):
        return same(left, right) is (sign == "==")
    if sign in ("in", "not in"):
        if isinstance(right, list):
            found = any(same(left, item) for item in right)
        else:
            found = isinstance(left, str) and isinstance(right, str) and left in right
        return found is (sign == "in")
    if kind_of(left) != kind_of(right) or kind_of(left) not in ("number", "text"):
        return False
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[sign]


def kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return {str: "text", list: "list"}.get(type(value), "null")


def same(left: Any, right: Any) -> bool:
    if kind_of(left) != kind_of(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@settings(max_examples=250, deadline=None)
@given(tree=TREES, documents=st.lists(METADATA, min_size=1, max_size=6), chunks=st.data())
def test_a_filter_means_what_it_says(tree: Any, documents: list[dict[str, Any]], chunks: st.DataObject) -> None:
    owners = chunks.draw(st.lists(st.integers(0, len(documents) - 1), max_size=8).map(sorted))
    own = [chunks.draw(METADATA) for _ in owners]
    columns = Columns(
        [f"d{i}" for i in range(len(documents))],
        [json.dumps(metadata) for metadata in documents],
        np.array(owners, dtype=np.int64),
        [(row, json.dumps(metadata)) for row, metadata in enumerate(own) if metadata],
    )
    known = {name for metadata in [*documents, *own] for name in metadata}
    # A field that nobody has is an error, which has its own test; here one row more has them all.
    columns._gather(0, 0, {name: documents[0].get(name) for name in FIELDS if name not in known})
    documents[0].update({name: None for name in FIELDS if name not in known})
    parsed = parse(written(tree))
    over_documents = parsed.mask(columns.of_documents, columns.names, len(documents))
    assert over_documents.tolist() == [holds(tree, metadata) for metadata in documents]
    over_chunks = parsed.mask(columns.of_chunks, columns.names, len(owners))
    merged = [{**documents[owner], **metadata} for owner, metadata in zip(owners, own, strict=True)]
    assert over_chunks.tolist() == [holds(tree, metadata) for metadata in merged]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('year >= 2020 and venue in ["ACL"]', [0]),
        ("2018 <= year < 2020", [1]),
        ("not draft", [0, 2, 3]),
        ("draft", [1]),
        ("draft == true or year == null", [1, 3]),
        ('"x" in tags', [0, 1]),
        ('tags == ["x", "y"]', [0]),
        ('"CL" in venue', [0, 1]),
        ('document == "p/1"', [1]),
        ('startswith(id, "p/") and metadata.id == 7', [1]),
        ('contains(title, "GRAPH")', [0]),
        ('endswith(tags, "y")', [0]),
        ("exists(author.name)", [0]),
        ("exists(nothing)", []),
        ('author.name == "Ann" or `see also` == 1', [0, 2]),
        ("year == 2020.0", [0]),
        ('year == "2020"', []),
        ('year != "2020"', [0, 1, 3]),
        ("year != 2020", [1, 3]),
        ("not (year == 2020)", [1, 2, 3]),
        ("year < last", [1]),
        ("year in []", []),
        ("1 == 1", [0, 1, 2, 3]),
        ("(year) > -1", [0, 1]),
        ("(year > 2018 or (draft)) and not not exists(venue)", [0, 1]),
        ("venue == 'AC\\L'", [0]),
    ],
)
def test_examples(expression: str, expected: list[int]) -> None:
    rows = [
        {
            "year": 2020,
            "venue": "ACL",
            "tags": ["x", "y"],
            "title": "A graph",
            "author": {"name": "Ann"},
            "draft": False,
        },
        {"year": 2018, "venue": "EACL", "tags": ["x"], "draft": True, "id": 7, "last": 2019},
        {"see also": 1},
        {"year": None},
    ]
    columns = Columns([f"p/{i}" for i in range(4)], map(json.dumps, rows), np.arange(4), [])
    assert np.flatnonzero(parse(expression).mask(columns.of_chunks, columns.names, 4)).tolist() == expected


@pytest.mark.parametrize(
    ("expression", "column", "message"),
    [
        ("", 1, "expected a field or a value, but the filter ends"),
        ("year =", 6, "unexpected '='.*write =="),
        ("year == ", 9, "expected a field or a value"),
        ("year == 'x", 9, "does not end"),
        ("year == 1 venue", 11, "expected and, or, or the end"),
        ("year == 1 & draft", 11, "write and"),
        ("(year == 1", 11, r"expected '\)'"),
        ("year in [1, year]", 13, "expected a value"),
        ("yeah == 1", 1, "no document has a field 'yeah'.*did you mean 'year'"),
        ("year == 1 and starts(year, 'x')", 15, "no function 'starts'.*startswith"),
        ("startswith(year, 3)", 19, "string"),
        ("exists(3)", 9, "field"),
        ("7", 2, "expected a comparison"),
        ("year not 3", 10, "expected 'in'"),
        ("(year == 1) == true", 16, "expected and, or, or the end"),
        ("year == __import__('os')", 9, "no function '__import__'"),
        ("year ** 9", 6, "unexpected"),
        ("year == 2020abc", 9, "unexpected '2'"),
        ("not " * 200 + "draft", 401, "nested"),
        ("(" * 200, 101, "nested"),
        ("year in " + "[" * 200, 109, "nested"),
        ("year == " + "9" * 5000, 9, "digits"),
    ],
)
def test_errors_point_at_the_place(expression: str, column: int, message: str) -> None:
    columns = Columns(["a"], ['{"year": 2020, "draft": true}'], np.zeros(1, np.int64), [])
    with pytest.raises(
        ConfigError, match=f"(?s)column {column}: .*{message}|column {column}: .*\n.*\n.*{message}"
    ) as error:
        parse(expression).mask(columns.of_chunks, columns.names, 1)
    _, shown, caret = error.value.message.splitlines()
    assert caret.strip() == "^"
    assert len(caret) <= len(shown) + 1


def test_a_long_filter_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most"):
        parse("year == 1 or " * 10_000)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab1. ()[],<>=!\"'`\\-\nandornti", max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    columns = Columns(["a"], ['{"a": 1, "b": "x"}'], np.zeros(1, np.int64), [])
    try:
        mask = parse(text).mask(columns.of_chunks, columns.names, 1)
    except RagError:
        return
    assert mask.shape == (1,)


def test_filters_over_a_collection(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "kb", encoder=ENCODER) as collection:
        assert collection.select("anything == 1").size == 0, "nothing is known of an empty collection"
        with collection.writer() as writer:
            put(writer, [document(f"doc{i}", i) for i in range(6)])
            writer.add([Document("nested", "", {"a": {"b": 1, "c": [1]}})], [[]], [])
            writer.commit()
        ids = collection.select("even and number == 2")
        assert [c.document for c in collection.chunks(ids)] == ["doc0", "doc2", "doc4"]
        assert np.array_equal(collection.select("not exists(number)"), np.arange(0, 18, 3))
        assert {"document", "version", "number", "a.b", "a.c"} <= set(collection.fields())
        (hits,) = collection.search_lexical(["common"], 100, filter="version > 3 and not exists(number)")
        assert {(c.document, c.start) for c in hits.chunks()} == {("doc4", 0), ("doc5", 0)}
        with pytest.raises(ConfigError, match="did you mean 'version'"):
            collection.search_lexical(["common"], 3, filter="versoin == 2")
        with collection.writer() as writer:
            with pytest.raises(ConfigError, match="no document has a field 'number'"):
                writer.delete_where("number == 1")  # only chunks have it
            assert writer.delete_where("version >= 2 and even or a.b == 1") == 3
            writer.commit()
        assert set(collection.documents()) == {"doc0", "doc1", "doc3", "doc5"}
        assert len(collection.select("exists(version)")) == 12, "what was selected before is not kept over a commit"


def test_a_chunk_overrides_its_document(tmp_path: Path) -> None:
    whole = Document("d", "one\ntwo\n", {"a": {"b": 1, "c": 2}, "kind": "document"})
    first, second = chunked(whole)
    second = type(second)(
        **{f: getattr(second, f) for f in second.__slots__} | {"metadata": {"a": {"c": 3}, "kind": None}}
    )
    with Collection.create(tmp_path / "kb", encoder=ENCODER) as collection:
        with collection.writer() as writer:
            writer.add([whole], [[first, second]], ENCODER.encode_documents([first.text, second.text]))
            writer.commit()
        assert collection.chunks([1])[0].metadata == {"a": {"c": 3}, "kind": None}
        for expression, expected in {"a.b == 1": [0], "a.c == 3": [1], "kind == null": [1], "exists(a.b)": [0]}.items():
            assert collection.select(expression).tolist() == expected
