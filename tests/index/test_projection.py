"""Links made of queries, for queries that are unlike the vectors they look for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import InputError
from rag.index import GraphIndex
from rag.index.projection import NO_ROW, project


def apart(seed: int = 0, tokens: int = 12000, wide: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys, queries to learn from and queries to ask: two different linear maps of the same kind of tokens, as in
    attention; most keys lie far from any query."""
    draw = np.random.default_rng(seed)
    topics = draw.normal(size=(200, 16))
    to_key, to_query = draw.normal(size=(2, 16, wide))
    shared = draw.normal(size=(wide, wide)) * 0.25

    def states(count: int) -> np.ndarray:
        return topics[draw.integers(200, size=count)] + 0.5 * draw.normal(size=(count, 16))

    keys = states(tokens) @ to_key + 3 * draw.normal(size=(tokens, wide)) @ shared
    asked = states(1500) @ to_query
    return keys.astype(np.float32), asked[:1000].astype(np.float32), asked[1000:].astype(np.float32)


def recall(index: GraphIndex, queries: np.ndarray, truth: np.ndarray) -> float:
    found = np.concatenate([index.search(queries[at : at + 4], 20, effort=20).ids for at in range(0, len(queries), 4)])
    return float(np.mean([len(set(a) & set(b)) / 20 for a, b in zip(found, truth, strict=True)]))


def test_queries_that_are_unlike_the_vectors_find_more():
    keys, known, asked = apart()
    truth = np.argsort(-(asked @ keys.T), 1)[:, :20]
    index = GraphIndex(64, "ip", "float32", seed=1)
    index.add(np.arange(len(keys)) + 7, keys)
    before = recall(index, asked, truth + 7)
    effort = index.project(known, answers=50)
    after = recall(index, asked, truth + 7)
    assert after > before + 0.1
    assert index.stats().effort == effort
    assert index.stats().degree <= 32
    everything = index.search(asked[:3], len(keys), recall=1.0)
    assert np.array_equal(np.sort(everything.ids, 1), np.tile(np.arange(len(keys)) + 7, (3, 1)))


def test_it_is_kept_in_the_file_and_grows_on(tmp_path: Path):
    keys, known, asked = apart(tokens=5000)
    index = GraphIndex(64, "ip", "float32")
    index.add(np.arange(5000), keys)
    index.delete(np.arange(0, 5000, 7))
    index.project(known[:200])
    index.save(tmp_path / "keys")
    opened = GraphIndex.open(tmp_path / "keys")
    assert np.array_equal(opened.search(asked, 10, effort=15).ids, index.search(asked, 10, effort=15).ids)
    index.add(np.arange(5000, 5003), 5 * asked[:3])
    index.link()
    assert index.search(asked[:3], 1, effort=15).ids[:, 0].tolist() == [5000, 5001, 5002]
    assert not np.isin(index.search(asked, 10, effort=15).ids, np.arange(0, 5000, 7)).any()


def test_nothing_to_project_is_refused():
    index = GraphIndex(4)
    with pytest.raises(InputError, match="0 vectors and 1 queries"):
        index.project(np.ones((1, 4), np.float32))
    index.add(np.arange(3), np.eye(4, dtype=np.float32)[:3])
    with pytest.raises(InputError, match="3 vectors and 0 queries"):
        index.project(np.ones((0, 4), np.float32))
    index.project(np.ones((1, 4), np.float32))
    assert set(index.search(np.eye(4, dtype=np.float32)[:1], 3).ids[0]) == {0, 1, 2}


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 99))
def test_links_lead_to_rows_found_together_most_often(rows: int, queries: int, seed: int):
    draw = np.random.default_rng(seed)
    room, most = 5, 3
    links = np.full((rows, room), NO_ROW, np.uint32)
    for row in range(rows):
        others = draw.permutation([other for other in range(rows) if other != row])[: draw.integers(room + 1)]
        links[row, : len(others)] = others
    answers = np.stack([draw.permutation(rows)[: min(4, rows)] for _ in range(queries)])
    made = project(links, answers)
    assert made.shape == links.shape
    found = np.bincount(answers.ravel(), minlength=rows)
    for row in range(rows):
        got = [int(to) for to in made[row] if to != NO_ROW]
        assert len(set(got)) == len(got)
        assert row not in got
        assert (made[row, len(got) :] == NO_ROW).all()
        together = {
            other: sum(row in one and other in one for one in answers) / found[other] ** 0.5
            for other in range(rows)
            if other != row and found[other]
        }
        best = sorted((worth for worth in together.values() if worth), reverse=True)[:most]
        assert [together[to] for to in got[: len(best)]] == pytest.approx(best)
        kept = [int(to) for to in links[row] if to != NO_ROW and int(to) not in got[: len(best)]]
        assert got[len(best) :] == kept[: room - len(best)]
