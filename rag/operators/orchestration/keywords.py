"""The keywords of a question, and how many of them a route has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rag.index.text import stems, tokens

__all__ = ["key_scores", "keywords_of"]


def keywords_of(text: str, language: str) -> frozenset[str]:
    """The index terms of a text: stems of its words without stop words, as in lexical search."""
    return frozenset(stem for stem in stems(tokens([text]).words(), language) if stem is not None)


def key_scores(texts: Sequence[str], routes: Mapping[str, Sequence[str]], language: str) -> NDArray[np.float64]:
    """float64[texts, routes]: the share of a text's keywords that are keywords of the route; 0 for a text without any.

    score_key = |K_j ∩ K'| / |K'| (Modular RAG, arXiv:2407.21059, section 3.6, metadata routing).
    """
    of_route = [keywords_of(" ".join(words), language) for words in routes.values()]
    scores = np.zeros((len(texts), len(of_route)))
    for row, text in enumerate(texts):
        own = keywords_of(text, language)
        if own:
            scores[row] = [len(own & keywords) / len(own) for keywords in of_route]
    return scores
