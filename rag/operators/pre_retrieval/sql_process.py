"""The process in which SQL that a model wrote is prepared and run; started by `tables.py`, it imports nothing of ours.

Reads one request as JSON from standard input and writes one reply. A process of its own can be killed, and has a bound
on its memory: even to prepare a statement can take a database without end.
"""

from __future__ import annotations

import importlib
import json
import re
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

LONGEST_SQL = 10_000
LONGEST_CELL = 1000
LONGEST_TABLE = 200_000
VALUE_BYTES = 16 * 2**20  # of one value while a query runs

_COMMENT = r"(?:\s|--[^\n]*(?:\n|\Z)|/\*(?:[^*]|\*(?!/))*\*/)*"
_READS = re.compile(rf"{_COMMENT}(?:select|with)\b", re.IGNORECASE)
_FUNCTIONS = frozenset(
    "abs avg ceil ceiling char coalesce concat concat_ws count cume_dist date datetime dense_rank exp first_value "
    "floor glob group_concat hex ifnull iif instr json_array_length json_extract json_type julianday lag last_value "
    "lead length like likelihood likely ln log log10 log2 lower ltrim max min mod nth_value ntile nullif octet_length "
    "percent_rank pi pow power quote rank replace round row_number rtrim sign sqrt strftime string_agg substr "
    "substring sum time timediff total trim trunc typeof unicode unixepoch unlikely upper".split()
)


class RefusedError(Exception):
    """The statement may not run here, or failed."""


class BrokenError(Exception):
    """The database cannot be used."""


class SQLite:
    """Guarded twice: the connection cannot write, and an authorizer admits reading the tables and plain functions."""

    memory = 512 * 2**20

    def __init__(self, path: Path, tables: list[str]) -> None:
        self.connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            self.connection.execute("PRAGMA query_only = ON")
            found = self.connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name"
            ).fetchall()
        except sqlite3.Error as error:
            raise BrokenError(str(error)) from None
        self.made = {str(name): str(sql) for name, sql in found if not str(name).startswith("sqlite_")}
        names = {name.casefold() for name in self.made}
        self.allowed = {name.casefold() for name in tables} or names
        self.others = names - self.allowed
        if hasattr(self.connection, "setlimit"):  # Python 3.11
            self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES)
        self.connection.set_authorizer(self.authorize)

    def schema(self) -> str:
        return ";\n".join(sql for name, sql in self.made.items() if name.casefold() in self.allowed)

    def check(self, sql: str) -> None:
        try:
            self.connection.execute("EXPLAIN " + sql).close()
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise RefusedError(str(error)) from None

    def query(self, sql: str, rows: int, seconds: float) -> dict[str, Any]:
        self.check(sql)
        end = time.monotonic() + seconds
        self.connection.set_progress_handler(lambda: time.monotonic() > end, 1000)
        try:
            return table(self.connection.execute(sql), rows)
        except (sqlite3.Error, OverflowError) as error:
            raise RefusedError(late(seconds) if time.monotonic() > end else str(error)) from None

    def authorize(self, action: int, first: str | None, second: str | None, _: str | None, inside: str | None) -> int:
        if action == sqlite3.SQLITE_SELECT:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION:
            return sqlite3.SQLITE_OK if (second or "").casefold() in _FUNCTIONS else sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_READ:
            name = (first or "").casefold()
            through_view = (inside or "").casefold() in self.allowed
            hidden = name.startswith(("sqlite_", "pragma_")) or (name in self.others and not through_view)
            return sqlite3.SQLITE_DENY if hidden else sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY  # recursion too, which can run and grow without end


class DuckDB:
    """The file is opened read-only, other files and extensions are out of reach, and settings are locked.

    Views are seen through: where tables are named, those behind a view must be among them.
    """

    memory = 4 * 2**30  # of addresses, much more than it is allowed to use

    def __init__(self, path: Path, tables: list[str]) -> None:
        self.duckdb: Any = importlib.import_module("duckdb")
        settings = {"enable_external_access": "false", "memory_limit": "1GB", "threads": "2"}
        try:
            self.connection = self.duckdb.connect(str(path), read_only=True, config=settings)
            self.connection.execute("SET lock_configuration = true")
        except self.duckdb.Error as error:
            raise BrokenError(str(error)) from None
        self.allowed = {name.casefold() for name in tables}

    def schema(self) -> str:
        found = self.connection.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns "
            "WHERE table_schema = 'main' ORDER BY table_name, ordinal_position"
        ).fetchall()
        columns: dict[str, list[str]] = {}
        for name, column, kind in found:
            if not self.allowed or name.casefold() in self.allowed:
                columns.setdefault(name, []).append(f'"{column}" {kind}')
        return ";\n".join(f'CREATE TABLE "{name}" ({", ".join(parts)})' for name, parts in columns.items())

    def check(self, sql: str) -> None:
        try:
            statements = self.connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != self.duckdb.StatementType.SELECT:
                raise RefusedError("only a single SELECT or WITH statement may run")
            if self.allowed:
                self.check_tables(sql)
            self.connection.execute("EXPLAIN " + sql)
        except (self.duckdb.Error, RuntimeError, ValueError) as error:
            raise RefusedError(str(error)) from None

    def check_tables(self, sql: str) -> None:
        there = self.connection.execute(
            "SELECT table_name FROM duckdb_tables() UNION SELECT view_name FROM duckdb_views()"
        ).fetchall()
        used = {name.rpartition(".")[2].strip('"').casefold() for name in self.connection.get_table_names(sql)}
        hidden = used & ({str(name).casefold() for (name,) in there} - self.allowed)
        if hidden:
            raise RefusedError(f"table {min(hidden)!r} may not be read")

    def query(self, sql: str, rows: int, seconds: float) -> dict[str, Any]:
        self.check(sql)
        timer = threading.Timer(seconds, self.connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            return table(self.connection.execute(sql), rows)
        except self.duckdb.InterruptException:
            raise RefusedError(late(seconds)) from None
        except (self.duckdb.Error, RuntimeError) as error:
            raise RefusedError(str(error)) from None
        finally:
            timer.cancel()


def table(cursor: Any, rows: int) -> dict[str, Any]:
    """The first rows as text, and whether there are more."""
    taken: list[list[str]] = []
    size = 0
    while (row := cursor.fetchone()) is not None:
        if len(taken) == rows or size > LONGEST_TABLE:
            return {"columns": header(cursor), "rows": taken, "more": True}
        taken.append([cell(value) for value in row])
        size += sum(map(len, taken[-1]))
    return {"columns": header(cursor), "rows": taken, "more": False}


def header(cursor: Any) -> list[str]:
    return [cell(column[0]) for column in cursor.description or ()]


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = f"{value:.12g}" if isinstance(value, float) else str(value)[: LONGEST_CELL + 1]
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 3] + "..."


def late(seconds: float) -> str:
    return f"took longer than {seconds:g} s"


def limit_memory(size: int) -> None:
    """Where the system can; elsewhere the time limit has to do."""
    try:
        resource: Any = importlib.import_module("resource")
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    except (ImportError, ValueError, OSError):
        pass


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """`request`: path, tables, and for a statement sql; with rows and seconds it is run, otherwise prepared."""
    path = Path(request["path"])
    with path.open("rb") as file:
        head = file.read(16)
    if head[8:12] == b"DUCK":
        kind: Any = DuckDB
    elif head.startswith(b"SQLite format 3\0"):
        kind = SQLite
    else:
        return {"broken": "it is neither an SQLite nor a DuckDB file"}
    limit_memory(kind.memory)
    try:
        database = kind(path, request["tables"])
        with closing(database.connection):
            sql = request.get("sql")
            if sql is None:
                return {"schema": database.schema()}
            if len(sql) > LONGEST_SQL:
                raise RefusedError(f"the statement has {len(sql)} characters, at most {LONGEST_SQL} are allowed")
            if not _READS.match(sql):
                raise RefusedError("only a single SELECT or WITH statement may run")
            if "rows" in request:
                return {"result": database.query(sql, request["rows"], request["seconds"])}
            database.check(sql)
            return {}
    except RefusedError as error:
        return {"refused": str(error) or "the statement failed"}
    except MemoryError:
        return {"refused": "needs too much memory"}
    except BrokenError as error:
        return {"broken": str(error)}
    except ImportError as error:
        return {"missing": str(error)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))))
