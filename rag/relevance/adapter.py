"""The Cosine Adapter: a small network that says, for each query, what a cosine means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError
from rag.relevance.lists import CandidateLists
from rag.relevance.mappings import Mapping, apply, constrained, parameter_names
from rag.relevance.scorers import Scored
from rag.relevance.summaries import SUMMARY, standardised, summary
from rag.relevance.truncation import Truncation

__all__ = ["Base", "CosineAdapter", "Encoding", "Inputs"]

Base: TypeAlias = Literal["cosine", "standardised"] | Truncation
"""What a mapping is one of: the cosine; how many standard deviations it lies above the mean of its list; or what a
truncation model says of it."""

Inputs: TypeAlias = Literal["query", "scores", "both"]
INPUTS: tuple[Inputs, ...] = get_args(Inputs)
_STRETCH = np.float32(1.702)  # a sigmoid of 1.702 x is within 0.01 of the normal distribution function


@dataclass(frozen=True, eq=False)
class Encoding:
    """What the network reads: the query's embedding, the summary of its scores, or both; `shift` and `scale` float32[f]
    are mean and spread of these numbers in training.

    Plain: the standardised numbers. `invariant`: inputs of one length whatever the numbers are, so that their magnitude
    does not scale what the network says (Ortiz, Guttag and Dalca 2023, arXiv:2304.07645): the embedding is brought to
    the length sqrt(d), and each number of the summary becomes the cosine and sine of an angle between 0 and 90 degrees.
    """

    inputs: Inputs
    invariant: bool
    shift: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def of(cls, lists: CandidateLists, inputs: Inputs, invariant: bool) -> Encoding:
        """Standardised by these lists."""
        table = np.concatenate(_inputs(lists, inputs), axis=1)
        return cls(inputs, invariant, table.mean(axis=0), np.maximum(table.std(axis=0), np.float32(1e-6)))

    def __post_init__(self) -> None:
        if self.inputs not in INPUTS:
            raise ValueError(f"inputs {self.inputs!r}")
        least = 0 if self.inputs == "query" else SUMMARY
        if self.shift.ndim != 1 or self.shift.shape != self.scale.shape or len(self.shift) <= least - (least > 0):
            raise ValueError(f"shift and scale of shapes {self.shift.shape} and {self.scale.shape}")

    @property
    def width(self) -> int:
        """Numbers that the network reads."""
        angles = self.invariant and self.inputs != "query"
        return len(self.shift) + (SUMMARY if angles else 0)

    def __call__(self, lists: CandidateLists) -> NDArray[np.float32]:
        """float32[n, width]."""
        tables = _inputs(lists, self.inputs)
        if sum(table.shape[1] for table in tables) != len(self.shift):
            raise InputError(f"the adapter reads {len(self.shift)} numbers a query, not {tables[0].shape}")
        parts, at = [], 0
        for table in tables:
            own = slice(at, at := at + table.shape[1])
            parts.append(self._encoded((table - self.shift[own]) / self.scale[own], of_query=table is lists.queries))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _encoded(self, table: NDArray[np.float32], *, of_query: bool) -> NDArray[np.float32]:
        if not self.invariant:
            return np.clip(table, -6, 6)  # what lies far outside training says no more than what lies at its edge
        if of_query:
            length = np.sqrt(np.einsum("nd,nd->n", table, table))[:, None]
            return np.asarray(table * (np.float32(table.shape[1] ** 0.5) / np.maximum(length, np.float32(1e-6))))
        angle = np.float32(np.pi / 4) * (1 + np.tanh(_STRETCH / 2 * table))
        return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


@dataclass(frozen=True, eq=False)
class CosineAdapter:
    """Maps the cosines of each query's candidates to logits of relevance that can be compared between queries.

    (Rossi et al. 2024, arXiv:2408.04887.) A network reads what `encoding` says and gives the parameters of `mapping`,
    which rises, so that the order within a query stays, and is one of `base`. Arrays: `hidden` float32[width, h],
    `hidden_bias` float32[h], `output` float32[h, p], `default` float32[p]: the parameters where the network says
    nothing.
    """

    mapping: Mapping
    base: Base
    encoding: Encoding
    hidden: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]
    output: NDArray[np.float32]
    default: NDArray[np.float32]

    def __post_init__(self) -> None:
        width, units = self.encoding.width, len(self.hidden_bias)
        count = len(parameter_names(self.mapping))
        shapes = (self.hidden.shape, self.output.shape, self.default.shape)
        expected = ((width, units), (units, count), (count,))
        if shapes != expected:
            raise ValueError(f"arrays of shapes {shapes}, expected {expected}")

    @property
    def reads_query(self) -> bool:
        """Whether lists need the embeddings of the queries."""
        return self.encoding.inputs != "scores"

    def parameters(self, lists: CandidateLists) -> NDArray[np.float32]:
        """float32[n, p]: slope a > 0, offset b and, of a power, exponent k, for each query."""
        reached = self.encoding(lists) @ self.hidden
        reached += self.hidden_bias
        np.maximum(reached, 0, out=reached)
        return constrained(self.mapping, np.asarray(reached @ self.output + self.default))

    def __call__(self, lists: CandidateLists) -> Scored:
        parameters = self.parameters(lists)
        values = apply(self.mapping, mapped(lists, self.base), parameters)
        named = dict(zip(parameter_names(self.mapping), parameters.T, strict=True))
        return Scored(lists.masked(values), named)


def mapped(lists: CandidateLists, base: Base) -> NDArray[np.float32]:
    """float32[n, k]: what the mapping is one of."""
    if isinstance(base, Truncation):
        return base.logits(lists)
    return standardised(lists) if base == "standardised" else lists.scores


def _inputs(lists: CandidateLists, inputs: Inputs) -> list[NDArray[np.float32]]:
    """float32[n, f] of each kind of input."""
    tables = []
    if inputs != "scores":
        if lists.queries is None:
            raise InputError("the adapter reads the query's embedding, and there is none", hint="pass query embeddings")
        tables.append(lists.queries)
    if inputs != "query":
        tables.append(summary(lists))
    return tables
