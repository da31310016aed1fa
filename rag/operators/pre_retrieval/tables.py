"""A file of tables, SQLite or DuckDB, that can be asked and in no way changed."""

from __future__ import annotations

import importlib
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rag.errors import ConfigError, MissingExtraError
from rag.operators.local_file import local_file

__all__ = ["BadSQLError", "Result", "Tables", "open_tables"]

LONGEST_SQL = 10_000
LONGEST_CELL = 1000
MOST_BYTES = 16 * 2**20  # of one value while a query runs

_COMMENT = r"(?:\s|--[^\n]*(?:\n|\Z)|/\*(?:[^*]|\*(?!/))*\*/)*"
_READS = re.compile(rf"{_COMMENT}(?:select|with)\b", re.IGNORECASE | re.DOTALL)
_FUNCTIONS = frozenset(
    "abs avg ceil ceiling char coalesce concat concat_ws count cume_dist date datetime dense_rank exp first_value "
    "floor glob group_concat hex ifnull iif instr json_array_length json_extract json_type julianday lag last_value "
    "lead length like likelihood likely ln log log10 log2 lower ltrim max min mod nth_value ntile nullif octet_length "
    "percent_rank pi pow power quote rank replace round row_number rtrim sign sqrt strftime string_agg substr "
    "substring sum time timediff total trim trunc typeof unicode unixepoch unlikely upper".split()
)


class BadSQLError(Exception):
    """The statement is not one that may run here, or it failed; the message is the database's."""


@dataclass(frozen=True)
class Result:
    """Rows of text under the names of their columns; `more`: there would have been further rows."""

    columns: list[str]
    rows: list[list[str]]
    more: bool

    def __str__(self) -> str:
        """A Markdown table."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class Tables(Protocol):
    """A database opened for reading; a single SELECT or WITH statement at a time."""

    def schema(self) -> str:
        """The tables that may be read, as CREATE statements."""
        ...

    def check(self, sql: str) -> None:
        """Prepares a statement without running it; BadSQLError."""
        ...

    def query(self, sql: str, *, rows: int, seconds: float) -> Result:
        """Runs a statement and takes its first rows; BadSQLError, also when it takes longer."""
        ...


@contextmanager
def open_tables(database: str, tables: Sequence[str]) -> Iterator[Tables]:
    """The tables of a file (all when none are named), SQLite or DuckDB by its content.

    Raises ConfigError for a file elsewhere (see `local_file`) or of another kind, NotFoundError, MissingExtraError.
    """
    path = local_file(database, "database")
    with path.open("rb") as file:
        head = file.read(16)
    if head[8:12] == b"DUCK":
        duckdb: Any = _duckdb()
        settings = {"enable_external_access": "false", "memory_limit": "1GB", "lock_configuration": "true"}
        try:
            connection = duckdb.connect(str(path), read_only=True, config=settings)
        except duckdb.Error as error:
            raise ConfigError(f"database {database!r} cannot be opened: {error}") from None
        with closing(connection):
            yield _DuckDB(duckdb, connection, tables)
    elif head.startswith(b"SQLite format 3\0"):
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            yield _SQLite(connection, tables)
    else:
        raise ConfigError(f"database {database!r} is neither an SQLite nor a DuckDB file")


class _SQLite:
    """Guarded twice: the connection cannot write, and an authorizer admits reading the tables and plain functions."""

    def __init__(self, connection: sqlite3.Connection, tables: Sequence[str]) -> None:
        self._connection = connection
        try:
            connection.execute("PRAGMA query_only = ON")
            self._made = [
                (str(name), str(sql))
                for name, sql in connection.execute(
                    "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name"
                )
                if not str(name).startswith("sqlite_")
            ]
        except sqlite3.Error as error:
            raise ConfigError(f"the database cannot be read: {error}") from None
        wanted = {name.casefold() for name in tables} or {name.casefold() for name, _ in self._made}
        self._allowed = wanted
        self._others = {name.casefold() for name, _ in self._made} - wanted
        if hasattr(connection, "setlimit"):  # Python 3.11
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_BYTES)
        connection.set_authorizer(self._authorize)

    def schema(self) -> str:
        return ";\n".join(sql for name, sql in self._made if name.casefold() in self._allowed)

    def check(self, sql: str) -> None:
        _check_form(sql)
        try:
            self._connection.execute("EXPLAIN " + sql).close()
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise BadSQLError(str(error)) from None

    def query(self, sql: str, *, rows: int, seconds: float) -> Result:
        self.check(sql)
        end = time.monotonic() + seconds
        self._connection.set_progress_handler(lambda: time.monotonic() > end, 1000)
        try:
            cursor = self._connection.execute(sql)
            return _result(cursor.description, cursor.fetchmany(rows + 1), rows)
        except (sqlite3.Error, MemoryError, OverflowError) as error:
            late = time.monotonic() > end
            raise BadSQLError(f"took longer than {seconds:g} s" if late else str(error)) from None
        finally:
            self._connection.set_progress_handler(None, 0)

    def _authorize(self, action: int, first: str | None, second: str | None, _: str | None, inside: str | None) -> int:
        if action == sqlite3.SQLITE_SELECT:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION:
            return sqlite3.SQLITE_OK if (second or "").casefold() in _FUNCTIONS else sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_READ:
            table = (first or "").casefold()
            through_view = (inside or "").casefold() in self._allowed
            hidden = table.startswith(("sqlite_", "pragma_")) or (table in self._others and not through_view)
            return sqlite3.SQLITE_DENY if hidden else sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY  # recursion too, which can run and grow without end


class _DuckDB:
    """The file is opened read-only, other files and extensions are out of reach, and settings are locked."""

    def __init__(self, module: Any, connection: Any, tables: Sequence[str]) -> None:
        self._module = module
        self._connection = connection
        self._allowed = {name.casefold() for name in tables}

    def schema(self) -> str:
        found = self._connection.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns "
            "WHERE table_schema = 'main' ORDER BY table_name, ordinal_position"
        ).fetchall()
        columns: dict[str, list[str]] = {}
        for table, column, kind in found:
            if not self._allowed or table.casefold() in self._allowed:
                columns.setdefault(table, []).append(f'"{column}" {kind}')
        return ";\n".join(f'CREATE TABLE "{table}" ({", ".join(parts)})' for table, parts in columns.items())

    def check(self, sql: str) -> None:
        _check_form(sql)
        try:
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != self._module.StatementType.SELECT:
                raise BadSQLError("only a single SELECT statement may run")
            known = {str(t) for (t,) in self._connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
            known |= {str(v) for (v,) in self._connection.execute("SELECT view_name FROM duckdb_views()").fetchall()}
            used = {name.rpartition(".")[2].strip('"').casefold() for name in self._connection.get_table_names(sql)}
            hidden = used & {name.casefold() for name in known} - self._allowed if self._allowed else set()
            if hidden:
                raise BadSQLError(f"table {min(hidden)!r} may not be read")
            self._connection.execute("EXPLAIN " + sql)
        except self._module.Error as error:
            raise BadSQLError(str(error)) from None

    def query(self, sql: str, *, rows: int, seconds: float) -> Result:
        self.check(sql)
        late = threading.Timer(seconds, self._connection.interrupt)
        late.start()
        try:
            cursor = self._connection.execute(sql)
            return _result(cursor.description, cursor.fetchmany(rows + 1), rows)
        except self._module.InterruptException:
            raise BadSQLError(f"took longer than {seconds:g} s") from None
        except (self._module.Error, RuntimeError) as error:
            raise BadSQLError(str(error)) from None
        finally:
            late.cancel()


def _duckdb() -> Any:
    try:
        return importlib.import_module("duckdb")
    except ImportError:
        raise MissingExtraError("a DuckDB file", "sql") from None


def _check_form(sql: str) -> None:
    if len(sql) > LONGEST_SQL:
        raise BadSQLError(f"the statement has {len(sql)} characters, at most {LONGEST_SQL} are allowed")
    if not _READS.match(sql):
        raise BadSQLError("only a single SELECT or WITH statement may run")


def _result(description: Any, found: list[Any], rows: int) -> Result:
    columns = [_cell(column[0]) for column in description or ()]
    return Result(columns, [[_cell(value) for value in row] for row in found[:rows]], len(found) > rows)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = f"{value:.12g}" if isinstance(value, float) else str(value)
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 3] + "..."
