"""A language model that says what it was told to say: the mock for tests and examples."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from rag.errors import InputError, ModelError
from rag.models.generation import BlockingModel, Request, StopStrings
from rag.models.protocol import Completion
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
        said: list[str] = []
        stop = StopStrings(request.stop)
        for word in words[: request.max_tokens]:
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
            Usage(prompt_tokens, len(said), 1),
            logprobs=None if self.logprob is None else (self.logprob,) * len(tokens),
            tokens=tokens,
            finish="length" if len(words) > request.max_tokens and not stop.found else "stop",
        )

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
