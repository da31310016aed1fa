"""Queries that carry on what was found."""

from __future__ import annotations

import numpy as np

from rag.operators.pre_retrieval import AddAnswer, AddChunk
from rag.types import Answer, Chunk, Hits, Query


class Store:
    def chunks(self, ids: np.ndarray) -> list[Chunk]:
        return [Chunk("d", f"text {i}", 0, 6, id=int(i)) for i in ids]


def test_the_last_answer_goes_behind_the_question():
    query = Query("who?", "year > 2000", np.ones(3, dtype=np.float32))
    assert AddAnswer().run(query, None) is query
    assert AddAnswer().run(query, Answer("not there", found=False)) is query
    longer = AddAnswer().run(query, Answer("Ada"))
    assert (longer.text, longer.filter, longer.vector) == ("who? Ada", "year > 2000", None)


def test_the_best_chunk_goes_behind_the_question():
    query = Query("who?")
    assert AddChunk().run(query, Hits()) is query
    assert AddChunk().run(query, Hits([7, 8], [2, 1], store=Store())).text == "who? text 7"
