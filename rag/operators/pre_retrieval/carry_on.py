"""Queries that carry on what was found: for the next round of a loop, or the next hop from a chunk."""

from __future__ import annotations

from pydantic import Field

from rag.operators.base import Operator
from rag.operators.generation.certainty import sure_words
from rag.types import Answer, Hits, Query

__all__ = ["AddAnswer", "AddChunk"]


class AddAnswer(Operator, name="pre_retrieval.add_answer"):
    """Put the last answer behind the question, so that the search finds what lies around it.

    In the first round of a loop, when there is no answer yet, and after an answer that found nothing, the question
    stays as it is. (ITER-RETGEN, arXiv:2305.15294: retrieve with y_{t-1} followed by q.)

    With `probability` the words of which the model was not sure are left out, where the answer brings the probabilities
    of its tokens: a guess leads the search astray. (FLARE, masked sentences as implicit queries: Jiang et al. 2023,
    arXiv:2305.06983, section 3.2.2.)
    """

    probability: float = Field(
        0.0, ge=0, le=1, description="words with a token less likely are left out; 0: the answer as it stands"
    )

    def run(self, query: Query, answer: Answer | None = None) -> Query:
        if answer is None or not answer.found:
            return query
        said = sure_words(answer, self.probability) if self.probability else answer.text
        return Query(f"{query.text} {said}".strip(), query.filter)


class AddChunk(Operator, name="pre_retrieval.add_chunk"):
    """Put the text of the best hit behind the question, so that the search finds what both lead to.

    Without hits the question stays as it is. (DR-RAG, arXiv:2406.07348, section 3.2.)
    """

    def run(self, query: Query, hits: Hits) -> Query:
        chunks = hits.top(1).chunks()
        return Query(f"{query.text} {chunks[0].text}", query.filter) if chunks else query
