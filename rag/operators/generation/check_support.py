"""An answer held against its sources, sentence by sentence."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Literal, NamedTuple

from pydantic import Field

from rag.operators.base import Operator
from rag.operators.generation.citations import MARKER, Checker, numbers_in
from rag.operators.generation.words import content_stems
from rag.operators.indexing import sentences
from rag.operators.resources import Encoder
from rag.types import Answer, Citation, Context

__all__ = ["CheckSupport", "Supported"]


class Supported(NamedTuple):
    """The answer with its sentences checked, and whether enough of them are supported."""

    answer: Answer
    supported: bool


class CheckSupport(Operator, name="generation.check_support", waits=True):
    """Hold every sentence of an answer against the context, and remove or mark those that no passage supports.

    A sentence is supported when a passage holds it as `rag.operators.generation.citations.Checker` defines: one
    sentence of it, or two neighbours, with all numbers and enough of the content words, or, with an encoder, with all
    numbers and near enough in meaning. The passages that it cites come first, then the others. Sentences without
    content words claim nothing, and stay. The answer's citations become the places that support it, its score the
    share of its sentences that are supported; `supported` says whether that is at least `at_least`.

    An answer that was not found stays as it is and is not supported; nor is one that claims nothing. When all its
    sentences are removed, it is `not_found`. It is a check of words and meaning, not of logic: a sentence that denies
    what its source says in the same words passes. (Attribution to identified sources: Rashkin et al. 2021,
    arXiv:2112.12870; sentence by sentence as Gao et al. 2023, arXiv:2305.14627, ALCE, section 4.)
    """

    unsupported: Literal["remove", "mark", "keep"] = Field(
        "remove", description='what becomes of a sentence without support; "mark": "[?]" behind it'
    )
    at_least: float = Field(1.0, ge=0, le=1, description="share of sentences that makes an answer supported")
    support: float = Field(
        0.5, ge=0, le=1, description="share of a sentence's content words that a passage must hold in one place"
    )
    similarity: float = Field(
        0.7, ge=0, le=1, description="cosine that does instead, where the pipeline has an encoder; 1: never"
    )
    not_found: str = Field(
        "The documents do not answer this question.", min_length=1, description="the answer when nothing is left"
    )

    def run(self, answer: Answer, context: Context, encoder: Encoder | None = None) -> Supported:
        if not answer.found:
            return Supported(answer, False)
        checker = Checker(context, support=self.support, similarity=self.similarity, encoder=encoder)
        shown = ""
        citations: dict[Citation, None] = {}
        claims = held = 0
        for sentence in _sentences(answer.text):
            if not content_stems(MARKER.sub(" ", sentence)):
                shown += sentence
                continue
            claims += 1
            places = _places(checker, sentence)
            held += bool(places)
            citations.update(dict.fromkeys(places))
            if places or self.unsupported == "keep":
                shown += sentence
            elif self.unsupported == "mark":
                text = sentence.rstrip()
                shown += f"{text} [?]{sentence[len(text) :]}"
        score = held / claims if claims else 0.0
        supported = claims > 0 and score >= self.at_least
        if claims and not held and self.unsupported == "remove":
            return Supported(replace(answer, text=self.not_found, citations=(), found=False, score=0.0), supported)
        return Supported(replace(answer, text=shown.strip(), citations=tuple(citations), score=score), supported)


def _sentences(text: str) -> list[str]:
    """The sentences, each with citations and white space behind it; joined they are the text from the first on."""
    begins: list[int] = []
    for start, end in sentences(text):
        at = start
        while (marker := MARKER.match(text, at)) is not None:
            at = marker.end()
            while at < end and (text[at].isspace() or text[at] in ".;,"):
                at += 1
        if not begins or at < end:
            begins.append(at if begins else start)
    return [text[a:b] for a, b in pairwise([*begins, len(text)])]


def _places(checker: Checker, sentence: str) -> list[Citation]:
    """Where the passages support a sentence: all places in those that it cites, or the first in another."""
    claim = MARKER.sub(" ", sentence)
    cited = dict.fromkeys(n for marker in MARKER.findall(sentence) for n in numbers_in(marker))
    places = [place for number in cited if (place := checker.find(claim, number)) is not None]
    if not places:
        others = (checker.find(claim, number) for number in checker.passages if number not in cited)
        places = [place for place in others if place is not None][:1]
    return places
