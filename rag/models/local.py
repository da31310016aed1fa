"""Language models run on this machine by transformers (extra `local`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rag.errors import MissingExtraError, ModelError, NotFoundError
from rag.models.generation import BlockingModel, Request, StopStrings
from rag.models.protocol import Completion
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

    def _generate(self, request: Request) -> Iterator[str | Completion]:
        ids = self._prompt(request.messages)
        if len(ids) + request.max_tokens > self.context_tokens:
            raise ModelError(
                f"{self.name}: a prompt of {len(ids)} tokens and max_tokens {request.max_tokens} are more than the "
                f"model's context of {self.context_tokens}",
                hint="fewer or shorter passages, or a smaller max_tokens",
            )
        stop = StopStrings(request.stop)
        new: list[int] = []
        logprobs: list[float] = []
        text = ""
        finish = "length"
        for token, logprob in self._tokens(ids, request):
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
        while kept and len(self._decode(new[: kept - 1])) >= stop.sent:
            kept -= 1
        yield Completion(
            text[: stop.sent],
            Usage(len(ids), len(new), 1),
            logprobs=tuple(logprobs[:kept]),
            tokens=tuple(self._decode([token]) for token in new[:kept]),
            finish=finish,
        )

    def _tokens(self, ids: Sequence[int], request: Request) -> Iterator[tuple[int, float]]:
        """Generated token ids and their log-probabilities, up to `max_tokens`."""
        import torch

        model = self._model
        cache = None
        step = torch.tensor([ids], device=model.device)
        for _ in range(request.max_tokens):
            try:
                # Entered for each step: the state is the thread's own, and the next step may run in another one.
                with torch.inference_mode():
                    if step.shape[1] > 1:  # the prompt: logits are needed behind its last token only
                        cache = model.base_model(step[:, :-1], use_cache=True).past_key_values
                    output = model(step[:, -1:], past_key_values=cache, use_cache=True)
                    cache = output.past_key_values
                    logits = output.logits[0, -1].float()
                    if request.temperature:
                        weights = torch.softmax(logits / request.temperature, -1)
                        with self._lock:
                            token = int(torch.multinomial(weights, 1, generator=self._random))
                    else:
                        token = int(logits.argmax())
                    logprob = float(torch.log_softmax(logits, -1)[token])
            except RuntimeError as error:  # out of memory, for one
                raise ModelError(f"{self.name} failed: {error}") from error
            yield token, logprob
            step = torch.tensor([[token]], device=model.device)

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        tokenizer = self._tokenizer
        with self._lock:
            if not tokenizer.chat_template:
                plain = "\n\n".join(message.content for message in messages)
                ids: list[int] = tokenizer(plain, verbose=False)["input_ids"]
            else:
                text = self._template([{"role": m.role, "content": m.content} for m in messages])
                ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise ModelError(f"{self.name}: the prompt is empty")
        return ids

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
