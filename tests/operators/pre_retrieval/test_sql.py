"""SQL that a model wrote: it runs when it only reads, and in no other case."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import ConfigError, MissingExtraError, NotFoundError
from rag.models.scripted import ScriptedModel
from rag.operators.orchestration import HasHits
from rag.operators.pre_retrieval import RunSQL, SQLFromQuery, tables
from rag.pipelines import Pipeline, Verify
from rag.types import Query

SCHEMA = [
    "CREATE TABLE boats (name TEXT, price REAL, seats INTEGER)",
    "INSERT INTO boats VALUES ('Gull', 20.5, 4), ('Heron', 35, 6), ('Ibis | old', NULL, 2)",
    "CREATE TABLE staff (name TEXT, salary REAL)",
    "INSERT INTO staff VALUES ('Ann', 1000)",
    "CREATE VIEW rich AS SELECT name FROM staff WHERE salary > 10",
]
HAS_DUCKDB = importlib.util.find_spec("duckdb") is not None


@pytest.fixture(params=["sqlite", pytest.param("duckdb", marks=pytest.mark.skipif(not HAS_DUCKDB, reason="no duckdb"))])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    if request.param == "sqlite":
        with closing(sqlite3.connect("shop.db")) as db, db:
            for statement in SCHEMA:
                db.execute(statement)
    else:
        import duckdb

        with duckdb.connect("shop.db") as db:
            for statement in SCHEMA:
                db.execute(statement)
    return "shop.db"


def test_rows_become_a_passage(shop: str):
    result = RunSQL(database=shop).run("SELECT name, price FROM boats ORDER BY name")
    [passage] = result.context
    assert passage.text.splitlines() == [
        "| name | price |",
        "| --- | --- |",
        "| Gull | 20.5 |",
        "| Heron | 35 |",
        "| Ibis \\| old |  |",
    ]
    assert (passage.number, passage.document, passage.start, passage.end) == (1, "shop.db", 0, len(passage.text))
    assert result.sql_error == ""


def test_rows_are_limited_and_the_passage_says_so(shop: str):
    [passage] = RunSQL(database=shop, rows=2).run("SELECT name FROM boats ORDER BY name").context
    assert passage.text.endswith("| Heron |\n\nOnly the first 2 rows.")
    [passage] = RunSQL(database=shop, rows=3).run("SELECT name FROM boats").context
    assert "Only" not in passage.text


def test_no_rows_are_no_passage_and_no_error(shop: str):
    result = RunSQL(database=shop).run("SELECT name FROM boats WHERE seats > 99")
    assert (len(result.context), result.sql_error) == (0, "")


REFUSED = [
    "",
    "not sql",
    "DROP TABLE boats",
    "DELETE FROM boats",
    "UPDATE boats SET price = 0",
    "INSERT INTO boats VALUES ('x', 1, 1)",
    "SELECT 1; DROP TABLE boats",
    "SELECT 1; SELECT 2",
    "/* SELECT */ DROP TABLE boats",
    "-- SELECT\nDROP TABLE boats",
    "WITH x AS (SELECT 1) DELETE FROM boats",
    "CREATE TABLE t AS SELECT * FROM boats",
    "PRAGMA query_only = OFF",
    "ATTACH 'other.db' AS other",
    "VACUUM INTO 'copy.db'",
    "COPY boats TO 'out.csv'",
    "INSTALL httpfs",
    "SET enable_external_access = true",
    "SELECT load_extension('x')",
    "SELECT readfile('/etc/passwd')",
    "SELECT writefile('x', 'y')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('shop.db')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM nowhere",
    "SELECT nothing FROM boats",
    "EXPLAIN SELECT 1",
    "SELECT " + "1," * 20_000 + "1",
]


@pytest.mark.parametrize("sql", REFUSED, ids=[s[:40] for s in REFUSED])
def test_what_does_not_only_read_is_refused(shop: str, sql: str):
    before = Path(shop).read_bytes()
    files = sorted(os.listdir())
    result = RunSQL(database=shop, seconds=2).run(sql)
    assert result.sql_error
    assert len(result.context) == 0
    assert Path(shop).read_bytes() == before
    assert sorted(os.listdir()) == files


def test_a_statement_that_takes_too_long_is_stopped(shop: str):
    joined = ", ".join(f"boats AS b{i}" for i in range(24))
    result = RunSQL(database=shop, seconds=0.2).run(f"SELECT sum(b0.seats * b9.seats) FROM {joined}")
    assert result.sql_error == "took longer than 0.2 s"


def test_values_cannot_fill_the_memory(shop: str):
    doubled = ", ".join(f"t{i} AS (SELECT x || x AS x FROM t{i - 1})" for i in range(1, 32))
    result = RunSQL(database=shop, seconds=5).run(f"WITH t0 AS (SELECT 'ab' AS x), {doubled} SELECT length(x) FROM t31")
    assert result.sql_error


def test_only_the_named_tables_can_be_read(shop: str):
    run = RunSQL(database=shop, tables=("boats",))
    assert run.run("SELECT count(*) AS n FROM boats").sql_error == ""
    assert run.run("WITH b AS (SELECT * FROM boats) SELECT count(*) FROM b").sql_error == ""
    for sql in (
        "SELECT * FROM staff",
        "SELECT count(*) FROM staff",
        "SELECT name FROM rich",
        "SELECT (SELECT max(salary) FROM staff) FROM boats",
        "SELECT name FROM boats UNION SELECT name FROM staff",
    ):
        assert run.run(sql).sql_error, sql


def test_the_catalogue_of_sqlite_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("a.db")) as db, db:
        db.execute("CREATE TABLE t (x)")
    for sql in (
        "SELECT sql FROM sqlite_master",
        "SELECT * FROM pragma_table_info('t')",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    ):
        assert RunSQL(database="a.db").run(sql).sql_error, sql


def test_a_view_may_be_named_without_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("shop.db")) as db, db:
        for statement in SCHEMA:
            db.execute(statement)
    run = RunSQL(database="shop.db", tables=("rich",))
    assert "Ann" in str(run.run("SELECT name FROM rich").context)
    assert run.run("SELECT salary FROM staff").sql_error


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    folder = tmp_path_factory.mktemp("sql")
    with closing(sqlite3.connect(folder / "shop.db")) as db, db:
        for statement in SCHEMA:
            db.execute(statement)
    before = (folder / "shop.db").read_bytes()

    def run(sql: str) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAG_FILES", str(folder))
            error = RunSQL(database="shop.db", seconds=1).run(sql).sql_error
        assert (folder / "shop.db").read_bytes() == before
        return error

    return run


PIECES = "SELECT WITH DELETE FROM boats staff ; -- /* */ ' \" ( ) * , name 1 AS x UNION DROP TABLE PRAGMA \n".split(" ")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join) | st.text(max_size=40))
def test_no_text_changes_the_file(table: Callable[[str], str], sql: str):
    table(sql)


def test_long_comments_take_no_time(table: Callable[[str], str]):
    assert table("/**/" * 2400 + "x")


def test_the_model_sees_the_tables_and_its_statement_is_taken_out_of_the_reply(shop: str):
    llm = ScriptedModel("Of course:\n```sql\nSELECT name\nFROM boats;\n```\nThis lists the boats.")
    assert SQLFromQuery(database=shop, tables=("boats",)).run(Query("which boats?"), llm) == "SELECT name\nFROM boats"
    prompt = llm.calls[0].messages[-1].content
    assert "CREATE TABLE" in prompt
    assert "seats" in prompt
    assert "salary" not in prompt


def test_a_statement_that_does_not_work_is_repaired_once(shop: str):
    llm = ScriptedModel(["SELECT title FROM boats", "SELECT name FROM boats"])
    assert SQLFromQuery(database=shop).run(Query("which boats?"), llm) == "SELECT name FROM boats"
    assert "SELECT title FROM boats" in llm.calls[1].messages[-1].content
    assert "title" in llm.calls[1].messages[-1].content.partition("The database said:")[2]


def test_when_no_statement_works_there_is_none(shop: str):
    llm = ScriptedModel(["DROP TABLE boats", "I cannot do that."])
    state = Pipeline(SQLFromQuery(database=shop) >> RunSQL(database=shop), llm=llm).run("which boats?")
    assert state.sql == ""
    assert state.sql_error
    assert len(state.context) == 0


def test_question_to_rows_until_there_are_some(shop: str):
    llm = ScriptedModel(["SELECT name FROM boats WHERE seats > 99", "SELECT name FROM boats WHERE seats > 5"])
    flow = Verify(SQLFromQuery(database=shop) >> RunSQL(database=shop), HasHits(), at_most=3)
    state = Pipeline(flow, llm=llm).run("which boats are large?")
    assert "Heron" in str(state.context)
    assert state.has_hits is True


@pytest.mark.parametrize("operator", [SQLFromQuery, RunSQL])
def test_files_elsewhere_are_out_of_reach(operator: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inside = tmp_path / "inside"
    inside.mkdir()
    with closing(sqlite3.connect(tmp_path / "secret.db")) as db, db:
        db.execute("CREATE TABLE t (x)")
    monkeypatch.chdir(inside)
    (inside / "link.db").symlink_to(tmp_path / "secret.db")
    (inside / "text.db").write_text("not a database")

    def attempt(database: str) -> None:
        made = operator(database=database)
        made.run("SELECT 1") if operator is RunSQL else made.run(Query("x"), ScriptedModel("SELECT 1"))

    for name in ("../secret.db", str(tmp_path / "secret.db"), "link.db"):
        with pytest.raises(ConfigError, match="is not below"):
            attempt(name)
    with pytest.raises(ConfigError, match="neither an SQLite nor a DuckDB file"):
        attempt("text.db")
    with pytest.raises(NotFoundError, match="there is no database"):
        attempt("missing.db")
    monkeypatch.setenv("RAG_FILES", str(tmp_path))
    attempt("secret.db")


def test_a_damaged_database_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.db").write_bytes(b"SQLite format 3\0" + bytes(500))
    with pytest.raises(ConfigError, match="cannot be read"):
        RunSQL(database="a.db").run("SELECT 1")


def test_a_duckdb_file_without_duckdb_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    source = Path(tables._PROCESS).read_text(encoding="utf-8")
    hidden = "import sys\nsys.modules['duckdb'] = None\n"  # as if it were not installed
    first_line = source.index("import importlib")
    Path("process.py").write_text(source[:first_line] + hidden + source[first_line:], encoding="utf-8")
    Path("a.db").write_bytes(bytes(8) + b"DUCK" + bytes(20))
    monkeypatch.setattr(tables, "_PROCESS", Path("process.py").resolve())
    with pytest.raises(MissingExtraError, match="DuckDB file"):
        RunSQL(database="a.db").run("SELECT 1")


def test_a_process_that_breaks_or_hangs_is_a_reason_not_an_error(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stub = tmp_path / "process.py"
    monkeypatch.setattr(tables, "_PROCESS", stub)
    monkeypatch.setattr(tables, "_GRACE", 0.5)
    stub.write_text("import os\nos.abort()\n", encoding="utf-8")
    assert "broke" in RunSQL(database=shop).run("SELECT 1").sql_error
    stub.write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    assert RunSQL(database=shop, seconds=0.2).run("SELECT 1").sql_error == "took longer than 0.2 s"
