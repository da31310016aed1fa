"""Language models run on this machine by transformers (extra `local`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import MissingExtraError, ModelError, NotFoundError
from rag.models.forward import given_logprobs, new_tokens
from rag.models.generation import BlockingModel, Request, StopStrings, as_messages, mixture_weights
from rag.models.parts import borders, joined, split
from rag.models.prefilling import Prefill, Turn
from rag.models.protocol import Completion, PrefillReport
from rag.models.scoring import Prompt, Scored
from rag.types import Message, Usage

__all__ = ["TransformersModel"]


class TransformersModel(BlockingModel):
    """A causal language model from a folder or the Hugging Face hub; its weights are read on first use.

    Prompts follow the tokenizer's chat template. A base model has none: then the messages' texts are joined by blank
    lines, and the model continues them. Greedy at temperature 0, otherwise sampled from one random stream that starts
    at `seed`. A prompt that with `max_tokens` does not fit the context is refused, never cut. Log-probabilities are
    those of the model itself, before temperature.

    `threads` 0 leaves torch's own setting, which is shared by the whole process. `device` None means a CUDA device
    where there is one. Weights are float32 on a CPU (16-bit formats can be several times slower there),
    bfloat16 on a GPU.

    Raises MissingExtraError without transformers, NotFoundError for a model that is nowhere, ModelError otherwise.
    """

    def __init__(
        self, path: str | Path, *, name: str | None = None, threads: int = 0, device: str | None = None, seed: int = 0
    ) -> None:
        self.path = str(path)
        self.name = name or f"local:{path}"
        self.threads = threads
        self.device = device
        self.seed = seed
        self._lock = threading.RLock()  # loading, and the tokenizer, which refuses to be used by two threads at once

    def __repr__(self) -> str:
        return f"TransformersModel({self.name!r})"

    @cached_property
    def context_tokens(self) -> int:
        """Tokens of prompt and answer together, from the model's configuration."""
        config = self._pretrained("AutoConfig").get_text_config()
        for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
            if isinstance(found := getattr(config, key, None), int):
                return found
        raise ModelError(f"the configuration of {self.path!r} does not say how many tokens the model can hold")

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without special tokens."""
        with self._lock:
            return len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def token_ends(self, text: str) -> NDArray[np.int64]:
        """Where the tokens of a text end, int64[n]; without special tokens."""
        return self._tokens_of(text)[1]

    def score(self, prefix: Prompt, text: str) -> Scored:
        """The log-probability of each token of `text` behind `prefix`; see `ScoringModel`."""
        return self.score_batch([(prefix, text)])[0]

    def score_batch(self, items: Sequence[tuple[Prompt, str]]) -> list[Scored]:
        """`score` for many pairs in padded batches.

        Prefix and text become tokens each by itself, so that the tokens of a text do not depend on what stands before.
        Behind an empty prefix stands the token that begins a document, or else the one that ends one.
        """
        given = []
        for prefix, text in items:
            before = self._prompt_ids(prefix) or self._beginning()
            tokens, ends = self._tokens_of(text)
            if len(before) + len(tokens) > self.context_tokens:
                raise ModelError(
                    f"{self.name}: a prefix of {len(before)} tokens and a text of {len(tokens)} to score are more than "
                    f"the model's context of {self.context_tokens}",
                    hint="score the text in parts",
                )
            given.append((before, tokens, ends))
        with self._explained():
            found = given_logprobs(self._model, [([*before, *tokens], len(before)) for before, tokens, _ in given])
        return [
            Scored(text, logprobs, ends, Usage(len(before) + len(tokens), 0, 1))
            for (_, text), (before, tokens, ends), logprobs in zip(items, given, found, strict=True)
        ]

    def stream_mixture(
        self, prompts: Sequence[Prompt], weights: Sequence[float], *, max_tokens: int = 512, stop: Sequence[str] = ()
    ) -> Iterator[str | Completion]:
        """One text that continues all prompts, greedily by the mixture of their distributions; see `ScoringModel`.

        The prompts are one batch over one KV cache. A prompt of weight 0 is not run.
        """
        shares = mixture_weights(len(prompts), weights)
        requests = [Request.of(as_messages(p), max_tokens, 0.0, stop) for p in prompts]
        kept = [row for row, share in enumerate(shares) if share > 0]
        ids = [self._prompt_ids(prompts[row]) or self._beginning() for row in kept]
        return self._write(ids, [shares[row] for row in kept], requests[0])

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        prefill: Prefill | None = None,
    ) -> Iterator[str | Completion]:
        """Pieces of text as they come, then the Completion; see `PrefillingModel`."""
        request = Request.of(messages, max_tokens, temperature, stop)
        return self._generate(request) if prefill is None else self._write([prefill.tokens], [1.0], request, prefill)

    @property
    def network(self) -> Any:
        """The causal transformers model."""
        return self._model

    def tokenizer(self, *texts: Any, **settings: Any) -> Any:
        """What the tokenizer returns; see `PrefillingModel`."""
        with self._lock:
            return self._tokenizer(*texts, **settings)

    @property
    def template(self) -> str:
        """The tokenizer's chat template; see `PrefillingModel`."""
        return str(self._tokenizer.chat_template or "")

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returned when this was first asked for by that name."""
        return self._once(f"kept {name}", make)

    def prompt_parts(self, turns: Sequence[Turn]) -> list[tuple[int, ...]]:
        """The tokens of the prompt that these messages make, cut where their parts meet; see `PrefillingModel`.

        A tokenizer that does not tell where its tokens stand in a text leaves all in the last part.
        """
        with self._lock:
            text, special = self._rendered(joined(turns))
            ends = borders(turns, lambda messages: self._rendered(messages)[0]) if self._tokenizer.is_fast else []
            made = self._tokenizer(text, add_special_tokens=special, return_offsets_mapping=bool(ends), verbose=False)
        ids = made["input_ids"]
        if ends:
            return split(ids, made["offset_mapping"], ends)
        return [()] * (sum(len(parts) for _, parts in turns) - 1) + [tuple(ids)]

    def _generate(self, request: Request) -> Iterator[str | Completion]:
        return self._write([self._prompt(request.messages)], [1.0], request)

    def _write(
        self,
        prompts: Sequence[Sequence[int]],
        weights: Sequence[float],
        request: Request,
        prefill: Prefill | None = None,
    ) -> Iterator[str | Completion]:
        longest = max(map(len, prompts))
        if longest + request.max_tokens > self.context_tokens:
            raise ModelError(
                f"{self.name}: a prompt of {longest} tokens and max_tokens {request.max_tokens} are more than the "
                f"model's context of {self.context_tokens}",
                hint="fewer or shorter passages, or a smaller max_tokens",
            )
        stop = StopStrings(request.stop)
        new: list[int] = []
        logprobs: list[float] = []
        text = ""
        finish = "length"
        reports: list[PrefillReport] = []
        for token, logprob in self._new_tokens(prompts, weights, request, prefill, reports):
            if token in self._ends:
                finish = "stop"
                break
            new.append(token)
            logprobs.append(logprob)
            text = self._decode(new)
            # A character may take several tokens; until it is complete it reads as U+FFFD.
            if not text.endswith("\ufffd") and (piece := stop.feed(text)):
                yield piece
            if stop.found:
                finish = "stop"
                break
        if piece := stop.finish(text):
            yield piece
        kept = len(new)
        while stop.found and kept and len(self._decode(new[: kept - 1])) >= stop.sent:
            kept -= 1
        cached = sum(report.reused for report in reports)
        yield Completion(
            text[: stop.sent],
            Usage(sum(map(len, prompts)), len(new), len(prompts), cached),
            logprobs=tuple(logprobs[:kept]),
            tokens=tuple(self._decode([token]) for token in new[:kept]),
            finish=finish,
            prefill=reports[0] if reports else None,
        )

    def _new_tokens(
        self,
        prompts: Sequence[Sequence[int]],
        weights: Sequence[float],
        request: Request,
        prefill: Prefill | None,
        reports: list[PrefillReport],
    ) -> Iterator[tuple[int, float]]:
        """Generated token ids and their log-probabilities, up to `max_tokens`; the report of the prefill is added."""

        def begin() -> tuple[Any, Any]:
            assert prefill is not None
            prefilled = prefill.run()
            reports.append(prefilled.report)
            return prefilled.cache, prefilled.logits

        tokens = new_tokens(
            self._model,
            prompts,
            weights,
            request.max_tokens,
            self._choice(request.temperature),
            None if prefill is None else begin,
        )
        while True:
            with self._explained():
                step = next(tokens, None)
            if step is None:
                return
            yield step

    def _choice(self, temperature: float) -> Callable[[Any], int]:
        """From log-probabilities to the token that is taken."""
        if not temperature:
            return lambda logprobs: int(logprobs.argmax())

        def draw(logprobs: Any) -> int:
            import torch

            weights = torch.softmax(logprobs / temperature, -1)
            with self._lock:
                return int(torch.multinomial(weights, 1, generator=self._random))

        return draw

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # out of memory, for one
            raise ModelError(f"{self.name} failed: {error}") from error

    def _tokens_of(self, text: str) -> tuple[list[int], NDArray[np.int64]]:
        """Token ids of a text and where they end, without gaps between them."""
        with self._lock:
            tokenizer = self._tokenizer
            if not tokenizer.is_fast:
                raise ModelError(
                    f"{self.name}: its tokenizer does not tell where its tokens stand in a text",
                    hint="take a model with a tokenizer.json",
                )
            made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = np.array([end for _, end in made["offset_mapping"]], np.int64)
        if len(ends):
            ends = np.maximum.accumulate(ends)
            ends[-1] = len(text)
        return made["input_ids"], ends

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            return self._prompt(prompt)
        with self._lock:
            ids: list[int] = self._tokenizer(prompt, verbose=False)["input_ids"]
        return ids

    def _beginning(self) -> list[int]:
        """The token that stands before a document."""
        for token in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return [token]
        raise ModelError(
            f"{self.name} has no token that begins a text, so its first one has no probability",
            hint="score it behind a prefix that is not empty",
        )

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        with self._lock:
            text, special = self._rendered(messages)
            ids: list[int] = self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        if not ids:
            raise ModelError(f"{self.name}: the prompt is empty")
        return ids

    def _rendered(self, messages: Sequence[Message]) -> tuple[str, bool]:
        """The prompt as a text, and whether the tokenizer puts its special tokens around it."""
        if not self._tokenizer.chat_template:
            return "\n\n".join(message.content for message in messages), True
        return self._template([{"role": m.role, "content": m.content} for m in messages]), False

    def _template(self, turns: list[dict[str, str]]) -> str:
        from jinja2.exceptions import TemplateError

        def apply(turns: list[dict[str, str]]) -> str:
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

        try:
            return apply(turns)
        except TemplateError as error:
            if len(turns) < 2 or [turn["role"] for turn in turns[:2]] != ["system", "user"]:
                raise ModelError(f"{self.name}: its chat template refuses these messages: {error}") from error
        # Some templates know no system role: the instructions then open the user's turn.
        joined = {"role": "user", "content": turns[0]["content"] + "\n\n" + turns[1]["content"]}
        try:
            return apply([joined, *turns[2:]])
        except TemplateError as error:
            raise ModelError(f"{self.name}: its chat template refuses these messages: {error}") from error

    def _decode(self, ids: Sequence[int]) -> str:
        with self._lock:
            return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @property
    def _tokenizer(self) -> Any:
        return self._once("tokenizer", lambda: self._pretrained("AutoTokenizer"))

    @property
    def _model(self) -> Any:
        return self._once("model", self._load_model)

    @property
    def _random(self) -> Any:
        import torch

        return self._once("random", lambda: torch.Generator(self._model.device).manual_seed(self.seed))

    @cached_property
    def _ends(self) -> set[int]:
        """Ids of the tokens that end an answer."""
        ends = getattr(self._model.generation_config, "eos_token_id", None)
        ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        return {*ends, self._tokenizer.eos_token_id} - {None}

    def _once(self, part: str, make: Callable[[], Any]) -> Any:
        """The part, made by the first thread that needs it."""
        with self._lock:
            if part not in self.__dict__:
                self.__dict__[part] = make()
            return self.__dict__[part]

    def _load_model(self) -> Any:
        torch = _import("torch")
        if self.threads:
            torch.set_num_threads(self.threads)
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        return self._pretrained("AutoModelForCausalLM").to(device, dtype).eval()

    def _pretrained(self, kind: str) -> Any:
        transformers = _import("transformers")
        logging = transformers.utils.logging
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            return getattr(transformers, kind).from_pretrained(self.path)
        except OSError as error:  # the library's answer to every name that leads nowhere
            reason = str(error).strip().partition("\n")[0]
            raise NotFoundError(
                f"no language model at {self.path!r}: {reason}", hint="a folder, or a name as on the Hugging Face hub"
            ) from None
        except Exception as error:
            raise ModelError(f"transformers cannot load {self.path!r}: {error}") from error
        finally:
            if shown:
                logging.enable_progress_bar()


def _import(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError("a local language model", "local") from error
