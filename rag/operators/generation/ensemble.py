"""One answer from several passages, each read alone, token by token."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from rag.models import Completion, can_score, scoring
from rag.operators.asking import at_once, fitted
from rag.operators.base import Operator
from rag.operators.generation.citations import Checker
from rag.operators.generation.vote import Vote
from rag.operators.generation.weights import softmax
from rag.operators.indexing import sentences
from rag.operators.prompts import load_prompt
from rag.operators.resources import ChatModel, Encoder
from rag.types import Answer, Citation, Context, Delta, Message, Query, Usage

__all__ = ["Ensemble"]

_PROMPTS = Path(__file__).parent / "prompts"


class Ensemble(Operator, name="generation.ensemble", deterministic=False, waits=True):
    """Let a language model answer with every passage in a prompt of its own, all of them deciding on each token.

    p(token) = sum over passages d of softmax_d(s(d) / `temperature`) · p(token | d, question, tokens before), with s
    the passages' scores; the likeliest token is taken. So many passages are read without one long prompt, and what one
    of them says alone has little weight. The scores of a rank fusion lie near each other: a small temperature tells
    them apart. (REPLUG: Shi et al. 2023, arXiv:2301.12652, section 3.2.)

    It needs a model that scores given text, `local:NAME`. One that only chats answers each passage by itself, and the
    answers are put to the vote with the same weights, as `Vote` does.

    The model is not asked for citations, which would be other numbers in every prompt: behind the answer, each of its
    sentences gets the place that supports it, as `Generate` checks it, in the passage with the most weight that has
    one. The text holds no numbers; `score` is the share of sentences with a citation. With an empty context no model
    is called, and the answer is `not_found`; so it is when the model says nothing. A passage that does not fit the
    model's window is cut at its end. In a batch, mixtures are written one after another, since each holds a KV cache
    for all of its passages. Raises ModelError when the model fails, ConfigError or NotFoundError for the prompt.
    """

    prompt: str = Field("ensemble", description="name of a prompt file, without .md, with {passage} and {question}")
    prompts: str | None = Field(
        None, description="folder with prompts of one's own, looked into first, then the folder in RAG_PROMPTS"
    )
    max_tokens: int = Field(128, ge=1, le=32768, description="tokens of the answer")
    stop: tuple[str, ...] = Field(
        ("\nQuestion:",), description="texts at which the model stops; a base model goes on with the next question"
    )
    temperature: float = Field(
        1.0, gt=0, description="softmax of the scores: small, and the best passage decides alone"
    )
    not_found: str = Field(
        "The documents do not answer this question.", min_length=1, description="the answer when there is none"
    )
    support: float = Field(
        0.5, ge=0, le=1, description="share of a sentence's content words that the cited place must hold"
    )
    similarity: float = Field(
        0.7, ge=0, le=1, description="cosine that does instead, where the pipeline has an encoder; 1: never"
    )
    concurrency: int = Field(8, ge=1, le=256, description="requests under way at the same time, where models only chat")

    def run(
        self, query: Query, context: Context, *, llm: ChatModel, encoder: Encoder | None = None
    ) -> Generator[Delta, None, Answer]:
        if not context.passages:
            answer = self._refusal(Usage())
        elif can_score(llm):
            answer = yield from self._mixed(query, context, llm)
        else:
            (answer,) = self._voted([query], [context], llm)
            if answer.found:
                yield Delta(answer.text)
        if not answer.found:
            yield Delta(answer.text)
            return answer
        return self._cited(answer, context, encoder)

    def run_batch(
        self, query: list[Query], context: list[Context], *, llm: ChatModel, encoder: Encoder | None = None
    ) -> list[Answer]:
        if can_score(llm):
            return [_last(self.run(q, c, llm=llm, encoder=encoder)) for q, c in zip(query, context, strict=True)]
        voted = self._voted(query, context, llm)
        return [self._cited(a, c, encoder) if a.found else a for a, c in zip(voted, context, strict=True)]

    def _mixed(self, query: Query, context: Context, llm: ChatModel) -> Generator[Delta, None, Answer]:
        weights = softmax([p.score for p in context], self.temperature)
        prompts = self._prompts(query, context, llm)
        said = shown = ""
        completion = Completion("")
        for piece in scoring(llm, self.operator_name).stream_mixture(
            prompts, weights.tolist(), max_tokens=self.max_tokens, stop=self.stop
        ):
            if isinstance(piece, Completion):
                completion = piece
                continue
            said += piece
            # White space is held back: it may turn out to be the end.
            if len(fresh := said.strip()) > len(shown):
                yield Delta(fresh[len(shown) :])
                shown = fresh
        if not shown:
            return self._refusal(completion.usage)
        return Answer(shown, usage=completion.usage, tokens=completion.tokens, logprobs=completion.logprobs)

    def _voted(self, queries: Sequence[Query], contexts: Sequence[Context], llm: ChatModel) -> list[Answer]:
        """One answer a passage, all of them asked for together, then the vote of each question's."""

        def chat(messages: list[Message]) -> Answer:
            said = llm.chat(messages, max_tokens=self.max_tokens, stop=self.stop)
            return replace(self._refusal(said.usage), text=said.text.strip(), found=bool(said.text.strip()))

        prompts = [self._prompts(q, c, llm) for q, c in zip(queries, contexts, strict=True)]
        answers = iter(at_once(chat, [(messages,) for own in prompts for messages in own], self.concurrency))
        vote = Vote(temperature=self.temperature)
        result = []
        for context in contexts:
            alone = [Context((p,)) for p in context]
            winner = vote.run([next(answers) for _ in alone], alone)
            result.append(winner if winner.found else self._refusal(winner.usage))
        return result

    def _prompts(self, query: Query, context: Context, llm: ChatModel) -> list[list[Message]]:
        prompt = load_prompt(
            self.prompt, self.prompts, packaged=_PROMPTS, placeholders=("passage", "question"), optional=()
        )
        return [
            fitted(prompt, {"passage": p.reading, "question": query.text}, llm, self.max_tokens, cut="passage")
            for p in context
        ]

    def _cited(self, answer: Answer, context: Context, encoder: Encoder | None) -> Answer:
        """The answer with a place for each sentence that has one."""
        checker = Checker(context, support=self.support, similarity=self.similarity, encoder=encoder)
        order = np.argsort([-p.score for p in context], kind="stable").tolist()
        spans = sentences(answer.text)
        found: dict[Citation, None] = {}
        held = 0
        for start, end in spans:
            claim = answer.text[start:end]
            places = (checker.find(claim, context.passages[row].number) for row in order)
            place = next((p for p in places if p is not None), None)
            if place is not None:
                found[place] = None
                held += 1
        return replace(answer, citations=tuple(found), score=held / len(spans) if spans else 0.0)

    def _refusal(self, usage: Usage) -> Answer:
        return Answer(self.not_found, found=False, score=0.0, usage=usage)


def _last(stream: Generator[Delta, None, Answer]) -> Answer:
    """What a stream ends with."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
