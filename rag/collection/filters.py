"""Metadata filters: a small expression language, from text to a mask over rows.

    year >= 2020 and venue in ["ACL", "EMNLP"] and not draft
    2000 <= year < 2010 or "survey" in tags
    startswith(document, "papers/") and contains(title, "graph") and exists(author.name)

Values are strings, numbers, true, false, null and lists. A field is a metadata name, dotted where objects nest, in
backquotes where it has other characters; `document` (or `id`) is the document's id, and `metadata.id` a metadata field
of that name. `"x" in field` looks in a list, or for a part of a string; `contains` ignores case. A comparison is false
where the field is missing or its type does not fit, so its `not` is true there.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.collection.columns import MISSING, Column, comparable
from rag.errors import ConfigError, did_you_mean

__all__ = ["Filter", "parse"]

MAX_LENGTH = 100_000
MAX_DEPTH = 100
MAX_DIGITS = 400

Mask: TypeAlias = NDArray[np.bool_]
Lookup: TypeAlias = Callable[[str], "Column | None"]
Test: TypeAlias = Callable[[Any, Any], bool]


@dataclass(frozen=True)
class Value:
    """A literal."""

    value: Any


@dataclass(frozen=True)
class Field:
    """A field of the rows; on its own a condition that holds where the field is `true`."""

    name: str
    at: int


@dataclass(frozen=True)
class Compare:
    test: Test
    left: Value | Field
    right: Value | Field


@dataclass(frozen=True)
class Exists:
    field: Field


@dataclass(frozen=True)
class Not:
    inner: Condition


@dataclass(frozen=True)
class Both:
    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Either:
    parts: tuple[Condition, ...]


Condition: TypeAlias = "Field | Compare | Exists | Not | Both | Either"


@dataclass(frozen=True)
class Filter:
    """A parsed expression."""

    text: str
    condition: Condition

    def mask(self, lookup: Lookup, names: list[str], rows: int) -> Mask:
        """bool[rows]: where the condition holds.

        `lookup` gives a field's column, or None when no row has it, which is a ConfigError (except in `exists`): a
        misspelt name must not pass as a filter that finds nothing. `names` are the known fields, for that message.
        """

        def column(side: Value | Field) -> Column:
            if isinstance(side, Value):
                return Column([side.value], np.zeros(1, dtype=np.int32))
            found = lookup(side.name)
            if found is None and rows:
                hint = did_you_mean(side.name, names) or "see Collection.fields() for the fields there are"
                raise _error(self.text, side.at, f"no document has a field {side.name!r}", hint)
            return found or Column([MISSING], np.zeros(0, dtype=np.int32))

        def holds(condition: Condition) -> Mask:
            if isinstance(condition, Both | Either):
                join = np.logical_and if isinstance(condition, Both) else np.logical_or
                joined: Mask = join.reduce([holds(part) for part in condition.parts])
                return joined
            if isinstance(condition, Not):
                return ~holds(condition.inner)
            if isinstance(condition, Exists):
                found = lookup(condition.field.name)
                return np.zeros(rows, dtype=bool) if found is None else _where(found, lambda v: v is not MISSING)
            if isinstance(condition, Field):
                return _where(column(condition), lambda v: v is True)
            return np.broadcast_to(_compare(condition.test, column(condition.left), column(condition.right)), (rows,))

        return holds(self.condition)


def _where(column: Column, test: Callable[[Any], bool]) -> Mask:
    outcomes: Mask = np.fromiter(map(test, column.values), dtype=bool, count=len(column.values))
    return outcomes[column.codes]


def _compare(test: Test, left: Column, right: Column) -> Mask:
    """Tests each pair of values that occurs in some row, once."""
    if len(right.values) == 1 and len(right.codes) == 1:
        constant = right.values[0]
        return _where(left, lambda v: _passes(test, v, constant))
    if len(left.values) == 1 and len(left.codes) == 1:
        constant = left.values[0]
        return _where(right, lambda v: _passes(test, constant, v))
    pairs, rows = np.unique(left.codes.astype(np.int64) * len(right.values) + right.codes, return_inverse=True)
    outcomes = [_passes(test, left.values[p // len(right.values)], right.values[p % len(right.values)]) for p in pairs]
    mask: Mask = np.array(outcomes, dtype=bool)[rows.reshape(-1)]
    return mask


def _passes(test: Test, left: Any, right: Any) -> bool:
    return left is not MISSING and right is not MISSING and test(left, right)


def _equal(left: Any, right: Any) -> bool:
    return comparable(left) == comparable(right)


def _ordered(compare: Callable[[Any, Any], bool]) -> Test:
    def test(left: Any, right: Any) -> bool:
        return (
            (isinstance(left, str) and isinstance(right, str)) or (_is_number(left) and _is_number(right))
        ) and compare(left, right)

    return test


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _among(left: Any, right: Any) -> bool:
    if isinstance(right, _Literals):
        return comparable(left) in right.keys
    if isinstance(right, list):
        return any(_equal(left, item) for item in right)
    return isinstance(left, str) and isinstance(right, str) and left in right


class _Literals(list[Any]):
    """A list in the expression, searched by hash: it may be long, and there may be many values to look up."""

    def __init__(self, items: list[Any]) -> None:
        super().__init__(items)
        self.keys: frozenset[Hashable] = frozenset(comparable(item) for item in items)


def _on_text(test: Callable[[str, str], bool]) -> Test:
    """Of a string, or of any string in a list."""

    def of(left: Any, right: Any) -> bool:
        items = left if isinstance(left, list) else [left]
        return isinstance(right, str) and any(isinstance(item, str) and test(item, right) for item in items)

    return of


COMPARISONS: dict[str, Test] = {
    "==": _equal,
    "!=": lambda left, right: not _equal(left, right),
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
    "in": _among,
    "not in": lambda left, right: not _among(left, right),
}
FUNCTIONS: dict[str, Test] = {
    "startswith": _on_text(str.startswith),
    "endswith": _on_text(str.endswith),
    "contains": _on_text(lambda text, part: part.casefold() in text.casefold()),
}
CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
WORDS = {"and", "or", "not", "in"}

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | `(?P<quoted>[^`]+)`
      | (?P<name>[^\W\d]\w*(?:\.\w+)*)
      | (?P<sign>==|!=|<=|>=|[<>()\[\],])
      | (?P<end>$)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t"}


def parse(text: str) -> Filter:
    """The filter that `text` states; ConfigError, pointing at the place, when it is not well formed."""
    return Filter(text, _Parser(text).whole())


class _Parser:
    """Recursive descent; `self.kind` and `self.symbol` are the next symbol, which begins at `self.at`."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise ConfigError(f"the filter has {len(text)} characters, at most {MAX_LENGTH} are allowed")
        self.text = text
        self.next_at = 0
        self.depth = 0
        self.advance()

    def advance(self) -> None:
        found = _TOKEN.match(self.text, self.next_at)
        if found is None:
            rest = self.text[self.next_at :]
            self.at = self.next_at + len(rest) - len(rest.lstrip())
            char = self.text[self.at]
            hint = {"=": "write == to compare", "&": "write and", "|": "write or", "!": "write not or !="}.get(char)
            problem = "this string does not end" if char in "\"'`" else f"unexpected {char!r}"
            raise _error(self.text, self.at, problem, hint)
        self.kind = found.lastgroup or "end"
        self.symbol = found[self.kind]
        self.at = found.start(self.kind)
        self.next_at = found.end()
        if self.kind == "name" and self.symbol in WORDS:
            self.kind = "word"

    def fail(self, expected: str) -> NoReturn:
        what = "the filter ends" if self.kind == "end" else f"found {self.symbol!r}"
        raise _error(self.text, self.at, f"expected {expected}, but {what}", None)

    def took(self, *tokens: str) -> bool:
        if self.kind in ("word", "sign") and self.symbol in tokens:
            self.advance()
            return True
        return False

    def expect(self, symbol: str) -> None:
        if not self.took(symbol):
            self.fail(repr(symbol))

    def whole(self) -> Condition:
        condition = self.condition(self.either())
        if self.kind != "end":
            self.fail("and, or, or the end")
        return condition

    def condition(self, parsed: Condition | Value) -> Condition:
        if isinstance(parsed, Value):
            self.fail("a comparison")
        return parsed

    def either(self) -> Condition | Value:
        first = self.both()
        if not (self.kind == "word" and self.symbol == "or"):
            return first
        parts = [self.condition(first)]
        while self.took("or"):
            parts.append(self.condition(self.both()))
        return Either(tuple(parts))

    def both(self) -> Condition | Value:
        first = self.negation()
        if not (self.kind == "word" and self.symbol == "and"):
            return first
        parts = [self.condition(first)]
        while self.took("and"):
            parts.append(self.condition(self.negation()))
        return Both(tuple(parts))

    def negation(self) -> Condition | Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _error(self.text, self.at, f"nested more than {MAX_DEPTH} deep", None)
        parsed = Not(self.condition(self.negation())) if self.took("not") else self.comparison()
        self.depth -= 1
        return parsed

    def comparison(self) -> Condition | Value:
        left = self.operand()
        parts: list[Condition] = []
        while test := self.test():
            if not isinstance(left, Value | Field):
                self.fail("and, or, or the end")
            right = self.operand()
            if not isinstance(right, Value | Field):
                self.fail("a field or a value")
            parts.append(Compare(test, left, right))
            left = right
        if not parts:
            return left
        return parts[0] if len(parts) == 1 else Both(tuple(parts))

    def test(self) -> Test | None:
        if self.kind == "word" and self.symbol == "not":
            self.advance()
            self.expect("in")
            return COMPARISONS["not in"]
        symbol = self.symbol
        return COMPARISONS[symbol] if symbol in COMPARISONS and self.took(symbol) else None

    def operand(self) -> Condition | Value:
        kind, symbol, at = self.kind, self.symbol, self.at
        if self.took("("):
            inner = self.either()
            self.expect(")")
            return inner
        if kind in ("number", "string", "sign") or (symbol in CONSTANTS and kind == "name"):
            return Value(self.literal())
        if kind not in ("name", "quoted"):
            self.fail("a field or a value")
        self.advance()
        if kind == "name" and self.took("("):
            return self.call(symbol, at)
        return Field(symbol, at)

    def call(self, name: str, at: int) -> Condition:
        if name not in FUNCTIONS and name != "exists":
            hint = did_you_mean(name, [*FUNCTIONS, "exists"])
            raise _error(self.text, at, f"there is no function {name!r}", hint)
        field = self.operand()
        if not isinstance(field, Field):
            self.fail(f"a field as what {name} looks at")
        if name == "exists":
            self.expect(")")
            return Exists(field)
        self.expect(",")
        argument = Value(self.literal())
        if not isinstance(argument.value, str):
            self.fail(f"a string as the second argument of {name}")
        self.expect(")")
        return Compare(FUNCTIONS[name], field, argument)

    def literal(self) -> Any:
        kind, symbol = self.kind, self.symbol
        if self.took("["):
            return self.items()
        if kind == "number":
            if len(symbol) > MAX_DIGITS:
                raise _error(self.text, self.at, f"a number of more than {MAX_DIGITS} digits", None)
            self.advance()
            return int(symbol) if re.fullmatch(r"-?\d+", symbol) else float(symbol)
        if kind == "string":
            self.advance()
            return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), symbol[1:-1], flags=re.DOTALL)
        if kind != "name" or symbol not in CONSTANTS:
            self.fail("a value")
        self.advance()
        return CONSTANTS[symbol]

    def items(self) -> _Literals:
        items: list[Any] = []
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _error(self.text, self.at, f"nested more than {MAX_DEPTH} deep", None)
        while not self.took("]"):
            items.append(self.literal())
            if not self.took(","):
                self.expect("]")
                break
        self.depth -= 1
        return _Literals(items)


def _error(text: str, at: int, problem: str, hint: str | None) -> ConfigError:
    """Shows the surroundings of the place, with a caret under it."""
    begin = max(0, at - 60)
    line = re.sub(r"\s", " ", text[begin : at + 40])
    return ConfigError(f"filter, column {at + 1}: {problem}\n  {line}\n  {' ' * (at - begin)}^", hint=hint)
