"""A language model that says what it was told to say: the mock for tests and examples."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError, ModelError
from rag.models.generation import BlockingModel, Request, StopStrings, as_messages, mixture_weights
from rag.models.protocol import Completion
from rag.models.scoring import Prompt, Scored
from rag.types import Message, Usage

__all__ = ["ScriptedModel"]

Reply: TypeAlias = str | Completion | BaseException
"""What one call does: answer with a text, with a completion as it is, or raise."""

Script: TypeAlias = str | Sequence[Reply] | Mapping[str, Reply] | Callable[[Sequence[Message]], Reply]

_TOKEN = re.compile(r"\s*\S+|\s+")


class ScriptedModel(BlockingModel):
    """Answers from a script; a token is a word with the space before it, and streams come word by word.

    `script` is one text for every call; a sequence, one reply a call (ModelError when it is used up); a mapping from
    regular expressions to replies, where the first that is found in the last message counts (ModelError when none is);
    or a function of the messages. A reply that is an exception is raised. `delay` is in seconds, before the first
    token; `logprob` is given to every token of a text. `calls` records the requests.
    """

    def __init__(
        self,
        script: Script = "This is a scripted answer.",
        *,
        context_tokens: int = 8192,
        delay: float = 0.0,
        logprob: float | None = None,
    ) -> None:
        self.script = script
        self.context_tokens = context_tokens
        self.delay = delay
        self.logprob = logprob
        self.calls: list[Request] = []
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return f"scripted:{self.script}" if isinstance(self.script, str) else "scripted"

    def count_tokens(self, text: str) -> int:
        """Words."""
        return len(_TOKEN.findall(text))

    def token_ends(self, text: str) -> NDArray[np.int64]:
        """Where the words of a text end, int64[n]."""
        return np.cumsum([len(token) for token in _TOKEN.findall(text)], dtype=np.int64)

    def score(self, prefix: Prompt, text: str) -> Scored:
        """Words that were said before are likely, by their number: p = (times before + 1) / (words before + 1000).

        Before a word stand all words of the prefix and those of the text up to it, compared with case and punctuation.
        """
        said = [word for message in as_messages(prefix) for word in message.content.split()]
        counts = Counter(said)
        logprobs = []
        ends = self.token_ends(text)
        for before, token in enumerate(_TOKEN.findall(text), len(said)):
            logprobs.append(math.log((counts[token.strip()] + 1) / (before + 1000)))
            counts[token.strip()] += 1
        usage = Usage(len(said) + len(ends), 0, 1)
        if len(said) + len(ends) > self.context_tokens:
            raise ModelError(
                f"a prefix of {len(said)} tokens and a text of {len(ends)} are more than the model's context of "
                f"{self.context_tokens}"
            )
        return Scored(text, np.array(logprobs, np.float32), ends, usage)

    def score_batch(self, items: Sequence[tuple[Prompt, str]]) -> list[Scored]:
        """`score`, one by one."""
        return [self.score(prefix, text) for prefix, text in items]

    def stream_mixture(
        self, prompts: Sequence[Prompt], weights: Sequence[float], *, max_tokens: int = 512, stop: Sequence[str] = ()
    ) -> Iterator[str | Completion]:
        """The reply to each prompt says its next word with probability 1, as long as all words before were its own.

        So each word is the one with the most weight behind it, the first of equals, and its probability the share of
        the weight that says it, be it of replies that have come to their end.
        """
        shares = mixture_weights(len(prompts), weights)
        requests = [Request.of(as_messages(p), max_tokens, 0.0, stop) for p in prompts]
        kept = [row for row, share in enumerate(shares) if share > 0]
        return self._mix([requests[row] for row in kept], [shares[row] for row in kept])

    def _mix(self, requests: Sequence[Request], shares: Sequence[float]) -> Iterator[str | Completion]:
        replies = []
        for request in requests:
            *_, whole = self._generate(replace(request, stop=()))
            assert isinstance(whole, Completion)
            replies.append(whole)
        words = [_TOKEN.findall(reply.text) for reply in replies]
        said: list[str] = []
        logprobs: list[float] = []
        more = False
        while True:
            votes: dict[str, float] = {}
            for own, share in zip(words, shares, strict=True):
                if own[: len(said)] == said:
                    word = own[len(said)] if len(own) > len(said) else ""
                    votes[word] = votes.get(word, 0.0) + share
            word = max(votes, key=votes.__getitem__)
            if not word:
                more = any(own == said and r.finish == "length" for own, r in zip(words, replies, strict=True))
                break
            said.append(word)
            logprobs.append(math.log(votes[word]))
        tokens = sum(reply.usage.prompt_tokens for reply in replies)
        yield from _written(said, logprobs, requests[0], Usage(tokens, 0, len(replies)), more=more)

    def _generate(self, request: Request) -> Iterator[str | Completion]:
        with self._lock:
            self.calls.append(request)
            number = len(self.calls)
        prompt_tokens = sum(self.count_tokens(message.content) for message in request.messages)
        if prompt_tokens + request.max_tokens > self.context_tokens:
            raise ModelError(
                f"a prompt of {prompt_tokens} tokens and max_tokens {request.max_tokens} are more than the model's "
                f"context of {self.context_tokens}"
            )
        if self.delay:
            time.sleep(self.delay)
        reply = self._reply(request.messages, number)
        if isinstance(reply, BaseException):
            raise reply
        if isinstance(reply, Completion):
            yield from _TOKEN.findall(reply.text)
            yield reply
            return
        words = _TOKEN.findall(reply)
        logprobs = None if self.logprob is None else [self.logprob] * len(words)
        more = len(words) > request.max_tokens
        yield from _written(words[: request.max_tokens], logprobs, request, Usage(prompt_tokens, 0, 1), more=more)

    def _reply(self, messages: Sequence[Message], number: int) -> Reply:
        script = self.script
        if isinstance(script, str):
            return script
        if callable(script):
            return script(messages)
        if isinstance(script, Mapping):
            last = messages[-1].content
            for pattern, reply in script.items():
                if re.search(pattern, last):
                    return reply
            raise ModelError(f"no pattern of the script is found in {last[:80]!r}", hint=f"patterns: {list(script)}")
        if not isinstance(script, Sequence):
            raise InputError(f"a script cannot be a {type(script).__name__}")
        if number > len(script):
            raise ModelError(f"the script has {len(script)} replies, but this is call {number}")
        return script[number - 1]


def _written(
    words: Sequence[str], logprobs: Sequence[float] | None, request: Request, usage: Usage, *, more: bool
) -> Iterator[str | Completion]:
    """The words up to a stop string, as pieces and then as Completion; `more` when there would be further ones."""
    said: list[str] = []
    stop = StopStrings(request.stop)
    for word in words:
        said.append(word)
        if piece := stop.feed("".join(said)):
            yield piece
        if stop.found:
            break
    if piece := stop.finish("".join(said)):
        yield piece
    text = "".join(said)[: stop.sent]
    tokens = tuple(_TOKEN.findall(text))
    yield Completion(
        text,
        usage + Usage(0, len(said), 0),
        logprobs=None if logprobs is None else tuple(logprobs[: len(tokens)]),
        tokens=tokens,
        finish="length" if more and not stop.found else "stop",
    )
