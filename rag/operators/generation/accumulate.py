"""Answers of branches one behind the other."""

from __future__ import annotations

from pydantic import Field

from rag.operators.base import Operator
from rag.operators.generation.joining import concatenated
from rag.types import Answer

__all__ = ["Accumulate"]


class Accumulate(Operator, name="generation.accumulate"):
    """Join the answers of branches into one text, one behind the other, with their citations under one numbering.

    Answers that were not found, and repetitions (equal words, as SQuAD compares them), are left out; when none was
    found, neither is the result. Citations of one chunk get one number, whatever their branches called it; a number in
    a text for which there is no citation is taken out. The score is the mean of the answers' scores, the usage their
    sum. (Modular RAG, arXiv:2407.21059, section 3.5, fusion of branches.)
    """

    numbered: bool = Field(True, description='put "1. ", "2. " before the answers when there are several')
    separator: str = Field("\n\n", description="text between two answers")

    def run(self, answer: list[Answer]) -> Answer:
        return concatenated(answer, numbered=self.numbered, separator=self.separator)
