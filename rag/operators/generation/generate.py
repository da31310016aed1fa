"""An answer written by a language model, with checked citations."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from rag.errors import ConfigError, InputError
from rag.kvcache import Segment
from rag.kvcache.hosting import SegmentedTurn, messages_of
from rag.kvcache.quality import as_quality
from rag.models.protocol import Completion
from rag.operators.asking import at_once
from rag.operators.base import Operator
from rag.operators.generation.checked_text import CheckedText
from rag.operators.generation.citations import Checker
from rag.operators.generation.reading import KVCache, passage_segments, reading
from rag.operators.prompts import Prompt, load_prompt
from rag.operators.resources import ChatModel, Collection, Encoder
from rag.types import Answer, Context, Delta, Message, Query, Usage

__all__ = ["Generate", "Generated"]

_OVERHEAD = 8  # tokens that a chat template puts around a message


class Generated(NamedTuple):
    """The answer, and the context as the model saw it."""

    answer: Answer
    context: Context


class Generate(Operator, name="generation.generate", deterministic=False, waits=True):
    """Let a language model answer from the context, streaming, and check every citation it gives.

    A citation [n] holds when a sentence of passage n, or two neighbours, support the sentence it stands in; see
    `rag.operators.generation.citations.Checker`. It then becomes a `Citation` of exactly that place; otherwise its
    number is taken out of the text. The answer's `score` is the share of its sentences with a citation that holds; its
    `logprobs` are those of the tokens that the model said, where it tells them (`Confident` judges by them).

    With an empty context no model is called, and the answer is `not_found`; so it is when the model says `not_found`
    or nothing. When prompt and answer do not fit the model's window, the oldest turns of `memory` are dropped first,
    then the last passages; the context is written again, with these counted in `left_out`. The context is never cut.

    With `kv_cache` a model that runs in this process (local:NAME) reads the prompt with keys and values that it kept of
    earlier ones: of everything a prompt begins with in common with one of them (`prefix`: the same answer, sooner), or
    of every passage, wherever it stands (`chunks`), as far as `quality` lets it; see the guide to cached chunks.
    `exact` is as `prefix`. With `agreement=SHARE` passages are reused as `rag cache check` has shown it to be good
    enough on the pipeline's collection, otherwise only prefixes; `recompute=SHARE` goes without such proof. In a
    conversation (`memory`) only prefixes are reused. `auto` is `chunks` for such models, and `none` for all others.

    Raises ModelError when the model fails, InputError when not even one passage fits its window, ConfigError or
    NotFoundError for the prompt, ConfigError for `kv_cache` with a model that runs elsewhere.
    """

    prompt: str = Field("answer", description="name of a prompt file, without .md")
    prompts: str | None = Field(
        None, description="folder with prompts of one's own, looked into first, then the folder in RAG_PROMPTS"
    )
    max_tokens: int = Field(512, ge=1, description="tokens of the answer")
    temperature: float = Field(0.0, ge=0, le=2, description="0: always the most likely token")
    stop: tuple[str, ...] = Field((), description="texts at which the model stops")
    not_found: str = Field(
        "The documents do not answer this question.", min_length=1, description="the answer when there is none"
    )
    support: float = Field(
        0.5, ge=0, le=1, description="share of a sentence's content words that the cited place must hold"
    )
    similarity: float = Field(
        0.7, ge=0, le=1, description="cosine that does instead, where the pipeline has an encoder; 1: never"
    )
    unsupported: Literal["remove", "mark"] = Field("remove", description="what becomes of a number that does not hold")
    concurrency: int = Field(8, ge=1, le=256, description="requests of a batch under way at the same time")
    kv_cache: KVCache = Field("none", description="keys and values of earlier prompts that a local model reuses")
    quality: str = Field(
        "agreement=0.95", description="how far chunks are reused: exact, agreement=SHARE or recompute=SHARE"
    )

    @field_validator("quality", mode="before")
    @classmethod
    def _known_quality(cls, quality: object) -> str:
        try:
            return str(as_quality(quality))  # type: ignore[arg-type]
        except ConfigError as error:
            raise ValueError(f"{error.message} ({error.hint})" if error.hint else error.message) from None

    def run(
        self,
        query: Query,
        context: Context,
        memory: list[Message] | None = None,
        *,
        llm: ChatModel,
        encoder: Encoder | None = None,
        collection: Collection | None = None,
    ) -> Generator[Delta, None, Generated]:
        prompt = load_prompt(self.prompt, self.prompts)
        if not context.passages:
            yield Delta(self.not_found)
            return Generated(self._refusal(Usage()), context)
        turns, context = self.fitted(prompt, query, context, memory or [], llm)
        quality = as_quality(self.quality)
        prefill = reading(
            self.kv_cache, quality, llm, turns, prompt=prompt, not_found=self.not_found, collection=collection
        )
        settings: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": self.temperature, "stop": self.stop}
        if prefill is not None:
            settings["prefill"] = prefill
        checker = Checker(context, support=self.support, similarity=self.similarity, encoder=encoder)
        text = CheckedText(checker, mark=self.unsupported == "mark")
        said = shown = ""
        refusing = True  # so far the model may be saying `not_found`, so nothing is shown
        completion = Completion("")
        for piece in llm.stream(messages_of(turns), **settings):
            if isinstance(piece, Completion):
                completion = piece
                continue
            said += piece
            if refusing:
                refusing = _may_begin(said, self.not_found)
                piece = "" if refusing else said.lstrip()
            released = text.feed(piece)
            if released:
                shown += released
                yield Delta(released)
        if refusing and (not said.strip() or _plain(said).startswith(_plain(self.not_found))):
            yield Delta(self.not_found)
            return Generated(self._refusal(completion.usage), context)
        rest = (text.feed(said.lstrip()) if refusing else "") + text.finish()
        ending = rest.rstrip()
        if ending:
            shown += ending
            yield Delta(ending)
        score = text.supported / text.claims if text.claims else 0.0
        return Generated(
            Answer(
                shown,
                tuple(text.citations),
                score=score,
                usage=completion.usage,
                tokens=completion.tokens if completion.logprobs else None,
                logprobs=completion.logprobs or None,
            ),
            context,
        )

    def run_batch(
        self,
        query: list[Query],
        context: list[Context],
        memory: list[list[Message] | None],
        *,
        llm: ChatModel,
        encoder: Encoder | None = None,
        collection: Collection | None = None,
    ) -> list[Generated]:
        def one(query: Query, context: Context, memory: list[Message] | None) -> Generated:
            stream = self.run(query, context, memory, llm=llm, encoder=encoder, collection=collection)
            while True:
                try:
                    next(stream)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]

        return at_once(one, zip(query, context, memory, strict=True), self.concurrency)

    def fitted(
        self, prompt: Prompt, query: Query, context: Context, memory: list[Message], llm: ChatModel
    ) -> tuple[list[SegmentedTurn], Context]:
        """The messages in segments, and the context with as many passages as the model's window holds."""
        window = llm.context_tokens - self.max_tokens
        passages = context.passages
        while True:
            values = {"question": query.text, "not_found": self.not_found}
            system, user = prompt.segments(values, passage_segments(passages))
            said: list[SegmentedTurn] = [(m.role, [Segment("instructions", m.content)]) for m in memory]
            turns: list[SegmentedTurn] = [*([("system", system)] if system else []), *said, ("user", user)]
            if sum(llm.count_tokens(m.content) + _OVERHEAD for m in messages_of(turns)) <= window:
                break
            if memory:
                memory = memory[1:]
            elif len(passages) > 1:
                passages = passages[:-1]
            else:
                raise InputError(
                    f"the first passage does not fit the {llm.context_tokens} tokens of {llm.name}, of which "
                    f"{self.max_tokens} are kept for the answer",
                    hint="a smaller max_tokens of build_context or of generate, or a model with a larger window",
                )
        dropped = len(context.passages) - len(passages)
        return turns, replace(context, passages=passages, left_out=context.left_out + dropped) if dropped else context

    def _refusal(self, usage: Usage) -> Answer:
        return Answer(self.not_found, found=False, score=0.0, usage=usage)


def _plain(text: str) -> str:
    """A text by its words alone."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _may_begin(said: str, sentence: str) -> bool:
    """Whether what was said so far is the sentence's beginning, or begins with the sentence."""
    said, sentence = _plain(said), _plain(sentence)
    return sentence.startswith(said) or said.startswith(sentence)
