"""A file of tables, SQLite or DuckDB, that can be asked and in no way changed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag.errors import ConfigError, MissingExtraError
from rag.operators.local_file import local_file

__all__ = ["BadSQLError", "Rows", "Tables"]

_PROCESS = Path(__file__).with_name("sql_process.py")
_GRACE = 5.0  # seconds for the process to start and to end by itself


class BadSQLError(Exception):
    """The statement is not one that may run, or it failed; the message is the database's."""


@dataclass(frozen=True)
class Rows:
    """Rows of text under the names of their columns; `more`: there would have been further rows."""

    columns: list[str]
    rows: list[list[str]]
    more: bool

    def __str__(self) -> str:
        """A Markdown table."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class Tables:
    """The tables of a file, all when none are named; SQLite or DuckDB by its content.

    Every call starts a process with bounds on time and memory, and ends it. All raise ConfigError for a file elsewhere
    (see `local_file`) or of another kind, NotFoundError, and MissingExtraError for a DuckDB file without DuckDB.
    """

    def __init__(self, database: str, tables: Sequence[str]) -> None:
        self._name = database
        self._path = local_file(database, "database")
        self._tables = list(tables)

    def schema(self) -> str:
        """The tables that may be read, as CREATE statements."""
        return str(self._ask(_GRACE).get("schema", ""))

    def check(self, sql: str) -> None:
        """Prepares a single SELECT or WITH statement without running it; BadSQLError."""
        self._ask(_GRACE, sql=sql)

    def query(self, sql: str, *, rows: int, seconds: float) -> Rows:
        """Runs a single SELECT or WITH statement and takes its first rows; BadSQLError, also when it takes longer."""
        return Rows(**self._ask(seconds, sql=sql, rows=rows, seconds=seconds)["result"])

    def _ask(self, within: float, **request: Any) -> dict[str, Any]:
        request = {"path": str(self._path), "tables": self._tables, **request}
        try:
            ended = subprocess.run(  # noqa: S603  our own file; what the model wrote goes to its standard input
                [sys.executable, "-I", str(_PROCESS)],
                input=json.dumps(request).encode(),
                capture_output=True,
                timeout=within + _GRACE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BadSQLError(f"took longer than {within:g} s") from None
        if ended.returncode != 0:  # the memory bound ends a process in ways that it cannot report
            raise BadSQLError("needs too much memory, or broke the database's process")
        reply: dict[str, Any] = json.loads(ended.stdout)
        if "refused" in reply:
            raise BadSQLError(reply["refused"])
        if "broken" in reply:
            raise ConfigError(f"database {self._name!r} cannot be read: {reply['broken']}")
        if "missing" in reply:
            raise MissingExtraError("a DuckDB file", "sql")
        return reply
