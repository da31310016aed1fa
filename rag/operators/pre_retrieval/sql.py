"""From a question to SQL, and from SQL to a table that a reader can answer from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from rag.operators.asking import Asking
from rag.operators.base import Operator
from rag.operators.pre_retrieval.tables import BadSQLError, Tables
from rag.operators.resources import ChatModel
from rag.operators.signature import Channel
from rag.types import Context, Passage, Query

__all__ = ["RunSQL", "SQLFromQuery", "SQLResult"]

_FENCED = re.compile(r"```(?:\w+)?\s*\n?(.*?)(?:```|\Z)", re.DOTALL)
_STATEMENT = re.compile(r"\b(?:select|with)\b.*", re.IGNORECASE | re.DOTALL)


class SQLFromQuery(Asking, name="pre_retrieval.sql_from_query"):
    """Write `sql`: one SELECT statement over the tables of a file that answers the question.

    The model sees the tables' CREATE statements. The statement is prepared, not run, under the rules of `RunSQL`; when
    that fails the model is asked again with the database's message. Empty when no try gave a statement that would run.
    Raises ConfigError or NotFoundError for the database, MissingExtraError for a DuckDB file without DuckDB.
    (Text-to-SQL; Modular RAG, arXiv:2407.21059, section 3.2, query construction.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("schema", "problem", "question")

    prompt: str = Field("sql_from_query", description="name of a prompt file, without .md")
    database: str = Field(description="SQLite or DuckDB file below the working directory, or below RAG_FILES")
    tables: tuple[str, ...] = Field((), description="tables and views that may be read; all when left out")
    tries: int = Field(2, ge=1, le=10, description="calls of the model at most, until a statement would run")

    def run(self, query: Query, llm: ChatModel) -> Annotated[str, Channel("sql")]:
        tables = Tables(self.database, self.tables)
        schema, problem = tables.schema(), ""
        for _ in range(self.tries):
            values = {"schema": schema, "problem": problem, "question": query.text}
            sql = _statement(self.ask(llm, values, cut="schema").text)
            try:
                tables.check(sql)
            except BadSQLError as error:
                problem = f"This statement did not work:\n{sql}\nThe database said: {error}"
            else:
                return sql
        return ""


class SQLResult(NamedTuple):
    """The rows as one passage, empty when there are none; and what was wrong with the statement, or nothing."""

    context: Context
    sql_error: str


class RunSQL(Operator, name="pre_retrieval.run_sql", waits=True, deterministic=False):
    """Run the statement in `sql` over the tables of a file, and write its rows as a table to `context`.

    Nothing can be changed: a single SELECT or WITH statement, on a connection that cannot write, restricted to the
    tables and to functions without side effects, in a process of its own with bounds on time and memory. With more
    than `rows` rows the rest is left out, which the passage says. What is refused, fails, or takes longer than
    `seconds` gives an empty context and the reason in `sql_error`. Raises ConfigError or NotFoundError for the
    database, MissingExtraError for a DuckDB file without DuckDB.
    """

    database: str = Field(description="SQLite or DuckDB file below the working directory, or below RAG_FILES")
    tables: tuple[str, ...] = Field((), description="tables and views that may be read; all when left out")
    rows: int = Field(50, ge=1, le=10_000, description="rows at most")
    seconds: float = Field(5.0, gt=0, le=600, description="time that a statement may take")

    def run(self, sql: str) -> SQLResult:
        try:
            result = Tables(self.database, self.tables).query(sql, rows=self.rows, seconds=self.seconds)
        except BadSQLError as error:
            return SQLResult(Context(), str(error) or "failed")
        if not result.rows:
            return SQLResult(Context(), "")
        text = f"{result}\n\nOnly the first {len(result.rows)} rows." if result.more else str(result)
        name = Path(self.database).name
        metadata = {"title": f"Rows of {name}", "sql": sql}
        return SQLResult(Context((Passage(1, -1, name, text, 0, len(text), 1, 1.0, metadata),)), "")


def _statement(reply: str) -> str:
    """The statement in a reply: what is fenced, from its first SELECT or WITH, without a closing semicolon."""
    fenced = _FENCED.search(reply)
    found = _STATEMENT.search(fenced[1] if fenced else reply)
    return found[0].strip().rstrip(";").rstrip() if found else ""
