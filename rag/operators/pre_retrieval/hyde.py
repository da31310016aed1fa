"""Search with the embedding of an answer that might exist."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from rag.operators.asking import Asking, at_once
from rag.operators.resources import ChatModel, Collection
from rag.operators.retrieval.dense import query_vectors
from rag.types import Query

__all__ = ["HyDE"]


class HyDE(Asking, name="pre_retrieval.hyde"):
    """Give the query a vector: the mean of its own embedding and those of hypothetical answers that a model wrote.

    The mean of 1 + n unit vectors, brought to unit length; answers are embedded as documents, by the collection's own
    encoder. The text of the query stays, so that lexical search is not led astray by invented facts. Empty replies are
    left out; when all are empty the query is returned as it was. With a temperature of 0 one answer is enough.
    (Hypothetical document embeddings: Gao et al. 2022, arXiv:2212.10496, equation 8.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"

    prompt: str = Field("hyde", description="name of a prompt file, without .md")
    n: int = Field(4, ge=1, le=32, description="hypothetical answers; one call of the model each")
    temperature: float = Field(0.7, ge=0, le=2, description="0: always the most likely token")

    def run(self, query: Query, llm: ChatModel, collection: Collection) -> Query:
        return self.run_batch([query], llm=llm, collection=collection)[0]

    def run_batch(self, query: list[Query], *, llm: ChatModel, collection: Collection) -> list[Query]:
        def write(text: str) -> str:
            return self.ask(llm, {"question": text}).text.strip()

        replies = at_once(write, [(q.text,) for q in query for _ in range(self.n)], self.concurrency)
        answers = [[r for r in replies[i * self.n :][: self.n] if r] for i in range(len(query))]
        rows = [row for row, texts in enumerate(answers) if texts]
        if not rows:
            return query
        own = query_vectors([query[row] for row in rows], collection)
        written = collection.encoder.encode_documents([text for row in rows for text in answers[row]])
        made = list(query)
        for row, vector in zip(rows, own, strict=True):
            count = len(answers[row])
            mean = (vector + written[:count].sum(axis=0)) / (1 + count)
            written = written[count:]
            length = float(np.linalg.norm(mean))
            if length > 0:  # opposite vectors may cancel out
                made[row] = replace(query[row], vector=(mean / length).astype(np.float32))
        return made
