"""What is remembered: the conversation, and answers by the meaning of their questions."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.collection import Collection
from rag.encoders import load
from rag.errors import ConfigError, DamagedFileError
from rag.models.scripted import ScriptedModel
from rag.operators import operator
from rag.operators.orchestration import AnswerCache, PassOn, Remember, StoreAnswer, answer_cache
from rag.operators.orchestration.answer_store import AnswerStore, Scope
from rag.pipelines import Pipeline, Route
from rag.types import Answer, Chunk, Citation, Document, Message, Query, Usage

ENCODER = load("hashing:128")


def vector(text: str) -> np.ndarray:
    return ENCODER.encode_queries([text])[0]


def contents(memory: list[Message]) -> list[str]:
    return [message.content for message in memory]


def test_question_and_answer_are_appended():
    first = Remember().run(Query("a?"), Answer("A."))
    assert first == [Message("user", "a?"), Message("assistant", "A.")]
    assert contents(Remember().run(Query("b?"), Answer("B."), first)) == ["a?", "A.", "b?", "B."]
    assert contents(first) == ["a?", "A."]


def test_the_oldest_turns_go_first_and_the_system_message_stays():
    memory = [Message("system", "be kind")]
    for i in range(5):
        memory = Remember(turns=2).run(Query(f"q{i}"), Answer(f"a{i}"), memory)
    assert contents(memory) == ["be kind", "q3", "a3", "q4", "a4"]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=8), st.integers(1, 40), st.integers(1, 6))
def test_tokens_bound_all_but_the_last_turn(lengths: list[tuple[int, int]], tokens: int, turns: int):
    llm = ScriptedModel()
    memory: list[Message] = []
    for asked, answered in lengths:
        query, answer = Query("q " * asked), Answer("a " * answered)
        memory = Remember(tokens=tokens, turns=turns).run(query, answer, memory, llm=llm)
        used = sum(llm.count_tokens(m.content) for m in memory)
        assert used <= tokens or len(memory) == 2
        assert len(memory) <= 2 * turns
        assert memory[-2:] == [Message("user", query.text), Message("assistant", answer.text)]
        assert [m.role for m in memory] == ["user", "assistant"] * (len(memory) // 2)


SCOPE = Scope("kb", "1", "")


def test_the_store_finds_by_meaning_and_forgets_the_least_recently_used():
    store = AnswerStore()
    for text in ("how deep is the lake", "who rents boats", "when does it snow"):
        store.put(SCOPE, Query(text), vector(text), Answer(text.upper()), size=3)
    near = "how deep is the lake?"
    assert store.find(SCOPE, Query(near), vector(near), 0.9) == Answer("HOW DEEP IS THE LAKE")
    assert store.find(SCOPE, Query("mountains"), vector("mountains"), 0.9) is None
    store.put(SCOPE, Query("new"), vector("new"), Answer("NEW"), size=3)
    assert len(store) == 3
    assert store.find(SCOPE, Query("who rents boats"), vector("who rents boats"), 0.9) is None
    assert store.find(SCOPE, Query(near), vector(near), 0.9) is not None


def test_the_same_question_is_kept_once_with_its_last_answer():
    store = AnswerStore()
    for text in ("old", "new"):
        store.put(SCOPE, Query("q"), vector("q"), Answer(text), size=9)
    assert len(store) == 1
    assert store.find(SCOPE, Query("q"), vector("q"), 0.9) == Answer("new")


def test_other_numbers_filters_and_places_are_other_questions():
    store = AnswerStore()
    asked = "what was the price of a boat in the year 2019"
    store.put(SCOPE, Query(asked), vector(asked), Answer("20"), size=9)
    assert store.find(SCOPE, Query(asked), vector(asked), 0.8) is not None
    assert store.find(SCOPE, Query(asked.replace("2019", "2020")), vector(asked), 0.8) is None
    assert store.find(SCOPE._replace(filter="a == 1"), Query(asked), vector(asked), 0.8) is None
    assert store.find(SCOPE._replace(place="other"), Query(asked), vector(asked), 0.8) is None


def test_another_version_of_the_collection_forgets_the_answers():
    store = AnswerStore()
    store.put(SCOPE, Query("q"), vector("q"), Answer("a"), size=9)
    store.put(SCOPE._replace(place="other"), Query("q"), vector("q"), Answer("b"), size=9)
    assert store.find(SCOPE._replace(version="2"), Query("q"), vector("q"), 0.5) is None
    assert len(store) == 1


def test_many_changes_leave_a_small_index():
    store = AnswerStore()
    rng = np.random.default_rng(1)
    for i in range(600):
        v = rng.normal(size=8).astype(np.float32)
        store.put(SCOPE, Query(f"q{'x' * i}"), v / np.linalg.norm(v), Answer(str(i)), size=10)
    [index] = store._indexes.values()
    assert (len(store), len(index)) == (10, 10)
    assert index.stats().tombstones <= 75


def test_threads_share_a_store():
    store = AnswerStore()
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(60):
                text = f"question {'abcdefgh'[number]} {'x' * (i % 7)}"
                store.put(SCOPE, Query(text), vector(text), Answer(text), size=20)
                found = store.find(SCOPE, Query(text), vector(text), 0.999)
                assert found is None or found.text == text
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(store) == 20


def test_a_kept_store_is_there_again(tmp_path: Path):
    answer = Answer("20 [1]", (Citation(1, 4, "rent.md", 0, 5, 1, "Renti"),), score=0.5, usage=Usage(9, 9, 1))
    file = tmp_path / "a.sqlite"
    store = AnswerStore(file)
    store.put(SCOPE, Query("q"), vector("q"), answer, size=2)
    store.put(SCOPE, Query("r"), vector("r"), Answer("r"), size=2)
    store.put(SCOPE, Query("s"), vector("s"), Answer("s"), size=2)
    again = AnswerStore(file)
    assert len(again) == 2
    assert again.find(SCOPE, Query("q"), vector("q"), 0.9) is None
    again.put(SCOPE, Query("q"), vector("q"), answer, size=3)
    third = AnswerStore(file)
    found = third.find(SCOPE, Query("q"), vector("q"), 0.9)
    assert found is not None
    assert (found.text, found.citations, found.score, found.usage) == ("20 [1]", answer.citations, 0.5, Usage())


def test_a_file_that_is_no_cache_is_an_error(tmp_path: Path):
    (tmp_path / "a.sqlite").write_text("something else" * 100)
    with pytest.raises(DamagedFileError, match="answer cache"):
        AnswerStore(tmp_path / "a.sqlite")
    with closing(sqlite3.connect(tmp_path / "b.sqlite")) as db, db:
        db.execute("CREATE TABLE answers (id INTEGER)")
    with pytest.raises(DamagedFileError, match="remove the file"):
        AnswerStore(tmp_path / "b.sqlite")


asked: list[str] = []


@operator(name="testing.work")
def work(query: Query) -> Answer:
    """An answer that takes work."""
    asked.append(query.text)
    return (
        Answer(f"answer {len(asked)}", usage=Usage(5, 5, 1))
        if "unknown" not in query.text
        else Answer("?", found=False)
    )


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collection]:
    monkeypatch.setattr(answer_cache, "_stores", {})
    monkeypatch.chdir(tmp_path)
    asked.clear()
    with Collection.create(tmp_path / "kb", encoder="hashing:128") as made:
        add(made, "a")
        yield made


def add(collection: Collection, name: str) -> None:
    with collection.writer() as writer:
        text = f"text of {name}"
        writer.add(
            [Document(name, text)], [[Chunk(name, text, 0, len(text))]], collection.encoder.encode_documents([text])
        )
        writer.commit()
    collection.refresh()


FLOW = Route(AnswerCache(similarity=0.9), cached=PassOn(), fresh=work() >> StoreAnswer())


def test_a_question_is_worked_on_once(lake: Collection):
    pipeline = Pipeline(FLOW, collection=lake)
    first = pipeline.run("how deep is the lake?")
    second = pipeline.run("How deep is the lake")
    assert (first.cached, second.cached) == (False, True)
    assert first.answer.text == second.answer.text == "answer 1"
    assert second.answer.usage == Usage()
    assert pipeline.run("who rents boats?").cached is False
    assert len(asked) == 2


def test_a_changed_collection_is_asked_afresh(lake: Collection):
    pipeline = Pipeline(FLOW, collection=lake)
    pipeline.run("how deep is the lake?")
    add(lake, "b")
    state = pipeline.run("how deep is the lake?")
    assert (state.cached, state.answer.text) == (False, "answer 2")
    assert pipeline.run("how deep is the lake?").answer.text == "answer 2"


def test_what_was_not_found_is_asked_again(lake: Collection):
    pipeline = Pipeline(FLOW, collection=lake)
    assert pipeline.run("something unknown").cached is False
    assert pipeline.run("something unknown").cached is False


def test_a_batch_looks_up_as_single_runs_do(lake: Collection):
    pipeline = Pipeline(FLOW, collection=lake)
    pipeline.run("how deep is the lake?")
    states = pipeline.run_batch(
        ["how deep is the lake?", "who rents boats?", Query("how deep is the lake?", "id == 'a'")]
    )
    assert [s.cached for s in states] == [True, False, False]


def test_a_cache_in_a_folder_outlives_the_process(lake: Collection, monkeypatch: pytest.MonkeyPatch):
    flow = Route(AnswerCache(folder="cache"), cached=PassOn(), fresh=work() >> StoreAnswer(folder="cache"))
    Pipeline(flow, collection=lake).run("how deep is the lake?")
    monkeypatch.setattr(answer_cache, "_stores", {})  # as in a new process
    assert Pipeline(flow, collection=lake).run("how deep is the lake?").cached is True
    assert (Path("cache") / "answers.sqlite").is_file()


def test_caches_of_other_names_and_folders_elsewhere(lake: Collection):
    Pipeline(FLOW, collection=lake).run("how deep is the lake?")
    other = Route(AnswerCache(cache="other"), cached=PassOn(), fresh=work() >> StoreAnswer(cache="other"))
    assert Pipeline(other, collection=lake).run("how deep is the lake?").cached is False
    with pytest.raises(ConfigError, match="is not below"):
        Pipeline(AnswerCache(folder="../out"), collection=lake).run("x")
    with pytest.raises(ConfigError, match="cache"):
        AnswerCache(cache="../x")
