"""One of several answers, by the weight of those that agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rag.errors import InputError
from rag.operators.base import Operator
from rag.operators.generation.joining import normalised, usage_of
from rag.operators.generation.weights import softmax
from rag.types import Answer, Context

__all__ = ["Vote"]


class Vote(Operator, name="generation.vote"):
    """Choose among the answers of branches the one that carries the most weight; equal words add up.

    Words are compared as in SQuAD: without case, punctuation, articles and citations. The weights of the branches are
    softmax(s / `temperature`), where s is the best passage's score of the branch's context (`retrieval`), or the
    answer's own score (`answer`, 0 where it has none); or all are equal. Of the winning words the answer with the most
    weight is the result, the first of equals; its score is their share of all weight, its usage the sum of all.
    Answers that were not found win only when there are no others, but their weight counts.

    `retrieval` is REPLUG's ensemble, p(y|q) = sum over d of softmax_d(s(d, q)) · p(y|d, q), over whole answers in place
    of tokens: p(y|d, q) is 1 for the answer that the branch gave. `Ensemble` does it token by token, with a model that
    scores given text. `equal` is the vote of self-consistency. (Shi et al. 2023, arXiv:2301.12652, section 3.2; Wang et
    al. 2022, arXiv:2203.11171.) Raises InputError for `retrieval` without one context an answer.
    """

    weights: Literal["retrieval", "answer", "equal"] = Field("retrieval", description="what gives a branch its weight")
    temperature: float = Field(1.0, gt=0, description="softmax: small, and the best branch decides alone")

    def run(self, answer: list[Answer], context: list[Context] | None = None) -> Answer:
        if not answer:
            return Answer("", found=False)
        weights = self._weights(answer, context)
        words = [normalised(a.text) or a.text.strip() if a.found else None for a in answer]
        groups: dict[str | None, list[int]] = {}
        for row, text in enumerate(words):
            groups.setdefault(text or None, []).append(row)
        candidates = [rows for text, rows in groups.items() if text is not None] or list(groups.values())
        rows = max(candidates, key=lambda rows: weights[rows].sum())
        best = max(rows, key=lambda row: weights[row])
        return replace(answer[best], score=float(weights[rows].sum()), usage=usage_of(answer))

    def _weights(self, answers: list[Answer], contexts: list[Context] | None) -> NDArray[np.float64]:
        if self.weights == "retrieval":
            if contexts is None or len(contexts) != len(answers):
                there = "no context" if contexts is None else f"{len(contexts)} contexts"
                raise InputError(
                    f"vote: {len(answers)} answers, but {there}",
                    hint="every branch needs a BuildContext of its own, or set weights to answer or equal",
                )
            scores = [max((p.score for p in c), default=-np.inf) for c in contexts]
        else:
            scores = [a.score or 0.0 if self.weights == "answer" else 0.0 for a in answers]
        return softmax(scores, self.temperature)
