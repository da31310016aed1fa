"""Language models that can say how likely a given text is: for compression, ensembles, and judges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.errors import ModelError
from rag.models.protocol import ChatModel, Completion
from rag.types import Message, Usage

__all__ = ["Prompt", "Scored", "ScoringModel", "can_score", "scoring"]

Prompt: TypeAlias = "str | Sequence[Message]"
"""What stands before a text: plain text as it is, or messages under the model's chat template."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A text in tokens, each with the natural logarithm of its probability behind all that stands before it.

    Token i is `text[ends[i - 1]:ends[i]]`, the first begins at 0, and the last ends with the text. White space between
    tokens belongs to the later one. Of several tokens that make up one character the first has it, the others are
    empty.
    """

    text: str
    logprobs: NDArray[np.float32]
    """[n]"""
    ends: NDArray[np.int64]
    """[n], characters of `text`, never falling"""
    usage: Usage = Usage()

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens as text; joined they are the text."""
        ends = self.ends.tolist()
        return tuple(self.text[a:b] for a, b in zip([0, *ends], ends, strict=False))


class ScoringModel(ChatModel, Protocol):
    """A chat model that also gives the probabilities of text it did not write. Safe to call from several threads.

    Every method raises ModelError for a prefix and text that together do not fit `context_tokens`; nothing is cut.
    """

    def token_ends(self, text: str) -> NDArray[np.int64]:
        """Where the tokens of a text end, int64[n], as `Scored.ends`; without asking the model."""
        ...

    def score(self, prefix: Prompt, text: str) -> Scored:
        """How likely each token of `text` is behind `prefix`; behind "" the text begins a document."""
        ...

    def score_batch(self, items: Sequence[tuple[Prompt, str]]) -> list[Scored]:
        """`score` for many pairs of prefix and text, computed together."""
        ...

    def stream_mixture(
        self, prompts: Sequence[Prompt], weights: Sequence[float], *, max_tokens: int = 512, stop: Sequence[str] = ()
    ) -> Iterator[str | Completion]:
        """One text that continues all prompts at once: pieces as they come, then the Completion.

        Each token is the likeliest under p(token) = sum over i of w_i · p(token | prompt i, tokens before), with the
        weights w divided by their sum; its log-probability is that of the mixture. Raises InputError for no prompts, or
        for weights that are negative, all 0, or not one a prompt.
        """
        ...


def can_score(model: ChatModel) -> bool:
    """Whether a model is a ScoringModel; known by its methods, without loading it."""
    return all(callable(getattr(model, name, None)) for name in ("token_ends", "score_batch", "stream_mixture"))


def scoring(model: ChatModel, purpose: str) -> ScoringModel:
    """The model as one that scores given text. Raises ModelError, naming the `purpose`, when it cannot."""
    if not can_score(model):
        raise ModelError(
            f"{purpose} needs the probabilities of given text, which {model.name} does not tell",
            hint="a local:NAME model does; operators that compress take one beside the pipeline's own: "
            'resources={"scorer": "local:NAME"}',
        )
    return model  # type: ignore[return-value]
