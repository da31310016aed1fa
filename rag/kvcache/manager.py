"""The manager: a prompt as segments in, a filled cache and the first logits out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError, MissingExtraError
from rag.kvcache.adapter import ModelAdapter, fingerprint, only_last_logits
from rag.kvcache.craft import VariantRequest
from rag.kvcache.memory import MemoryStore
from rag.kvcache.rehearsal import PASSAGES, RehearsedRequest
from rag.kvcache.report import Report, SegmentReport
from rag.kvcache.request import Request
from rag.kvcache.segments import Piece, Segment, head_context, pieces_of
from rag.kvcache.selftest import Support, support_of
from rag.kvcache.store import StateStore
from rag.kvcache.strategies import CacheCraft, Strategy, as_strategy
from rag.kvcache.tiers import TieredStore
from rag.kvcache.variants import Variants

__all__ = ["KVCacheManager", "Prefilled"]


@dataclass(frozen=True, eq=False)
class Prefilled:
    """A prompt the model has read: its cache, the logits behind its last token, and how that came about.

    tokens: the whole prompt. cache: transformers' own, as a full prefill leaves it; it belongs to the caller. logits:
    float32[vocabulary]. To go on, choose the next token and give it to the model with this cache, or to `generate`
    together with `tokens`.
    """

    tokens: tuple[int, ...]
    cache: Any
    logits: Any
    report: Report


class KVCacheManager:
    """Prefills prompts of a causal transformers model with keys and values of segments that it keeps.

    Args:
        model: in float32 on a CPU, or in 16 bits on a GPU; it is not changed.
        tokenizer: for segments given as text; None where all come as tokens.
        strategy: what is reused and what computed again, or its name: `full`, `prefix`, `naive`, `share`, `first`,
            `cacheblend`, `cachecraft`. The first two are exact.
        store: where states are kept; None makes a MemoryStore of 1 GiB. Managers of several models may share one.

    A chunk is kept as it is computed alone behind the instructions that open the prompt, or with `cachecraft` behind
    fixed texts as well. What a prompt gets therefore depends on the prompt and the strategy only: not on earlier
    requests, on what the store has dropped, or on threads. The one exception is `CacheCraft(variants=...)`.
    Stored states that are damaged or of another model are dropped and computed again, with a warning in the log
    (`rag.kvcache`). A model for which reuse is not exact where it should be (see `support`) falls back to prefixes, or
    to full prefill. Safe to call from several threads where the model is.

    Raises MissingExtraError without torch and transformers, ConfigError for an unknown strategy.
    """

    def __init__(
        self, model: Any, tokenizer: Any = None, *, strategy: str | Strategy = "prefix", store: StateStore | None = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.strategy = as_strategy(strategy)
        self.store: StateStore = MemoryStore() if store is None else store
        self._variants = Variants(self.strategy.variants if isinstance(self.strategy, CacheCraft) else 0)
        self._lock = threading.RLock()  # the self-test, the fingerprint, and the tokenizer are used by one at a time
        try:
            import torch  # noqa: F401
            import transformers  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("the cache of chunks", "local") from error

    def with_strategy(self, strategy: str | Strategy) -> KVCacheManager:
        """A manager of the same model and store with another strategy; what was found out about the model is shared."""
        other = KVCacheManager(self.model, self.tokenizer, strategy=strategy, store=self.store)
        other._lock = self._lock
        other.__dict__.update({name: self.__dict__[name] for name in ("support", "known_as") if name in self.__dict__})
        return other

    @cached_property
    def support(self) -> Support:
        """What can be reused with this model, found out by tests on first use (seconds)."""
        with self._lock:
            return support_of(self.model)

    @cached_property
    def known_as(self) -> str:
        """What stored states are known by as this model's, and as kept in this way; hex, then a word."""
        with self._lock:
            return f"{fingerprint(self.model)}/{self.support.reuse}"

    def prefill(self, segments: Sequence[Segment]) -> Prefilled:
        """Read a prompt; see Prefilled. The last token is always computed.

        Raises InputError for a prompt without tokens, or with a text and no tokenizer.
        """
        import torch

        if self.strategy.reuse == "nothing":
            return self._in_full(self._pieces(segments, ""), "the strategy reuses nothing")
        pieces = self._pieces(segments, self.known_as)
        adapter = self.support.adapter
        if adapter is None:
            return self._in_full(pieces, self.support.reason)
        with torch.no_grad():
            if self.strategy.reuse == "prefix" or self.support.reuse == "prefix":
                return self._behind_prefix(Request(adapter, self.store, self.known_as, pieces))
            return self._with_chunks(self._request(adapter, pieces))

    def warm(self, instructions: Sequence[Segment], chunks: Sequence[Segment]) -> int:
        """Compute chunks for prompts that open with these instructions, where the store does not have them.

        Returns how many were computed; 0 where the model or the strategy does not reuse chunks, and for variants, which
        only prompts make.
        """
        import torch

        adapter = self.support.adapter
        if adapter is None or self.support.reuse != "chunks" or self.strategy.reuse != "chunks":
            return 0
        computed = 0
        with torch.no_grad():
            for chunk in chunks:
                if chunk.kind != "chunk":
                    raise InputError(f"a segment of kind {chunk.kind!r} was given to be cached, expected 'chunk'")
                pieces = self._pieces([*instructions, chunk], self.known_as)
                computed += self._request(adapter, pieces).warm()
        return computed

    def prefetch(self, segments: Sequence[Segment]) -> None:
        """Let a store with a disk begin to read what this prompt will need, while it waits for its turn."""
        adapter = self.support.adapter
        if not isinstance(self.store, TieredStore) or adapter is None or self.strategy.reuse != "chunks":
            return
        self.store.prefetch(self._request(adapter, self._pieces(segments, self.known_as)).names())

    @property
    def kept_a_chunk(self) -> int:
        """How many states `warm` keeps of a chunk: alone, and with rehearsals once more."""
        return 2 if isinstance(self.strategy, CacheCraft) and not self.strategy.variants else 1

    def arrange(self, segments: Sequence[Segment]) -> list[Segment]:
        """The prompt with its chunks in an order in which more of them stand behind what they were cached behind.

        For models that do not mind the order of passages. Only variants of `CacheCraft` make a difference; with other
        strategies the prompt stays as it is.
        """
        if not isinstance(self.strategy, CacheCraft) or not self.strategy.variants or self.support.reuse != "chunks":
            return list(segments)
        places = [at for at, segment in enumerate(segments) if segment.kind == "chunk"]
        each = [self._pieces([*segments[: places[0]], segments[at]], self.known_as) for at in places]
        order = self._variants.arranged([(pieces[-1].id, head_context(pieces)) for pieces in each])
        arranged = list(segments)
        for place, chosen in zip(places, order, strict=True):
            arranged[place] = segments[places[chosen]]
        return arranged

    @cached_property
    def _rehearsals(self) -> list[list[tuple[int, ...]]]:
        """Token ids of what chunks are rehearsed behind, segment by segment."""
        strategy = self.strategy
        given = strategy.rehearsals if isinstance(strategy, CacheCraft) else None
        if given is None and self.tokenizer is None:
            vocabulary = self.model.config.get_text_config().vocab_size
            return [[tuple(np.random.default_rng(0).integers(0, vocabulary, 64).tolist())]]
        contexts = given or [[Segment("chunk", text) for text in PASSAGES]]
        # Behind a segment given as tokens nothing opens the text, as nothing does behind instructions.
        start = Segment("chunk", tokens=())
        return [[piece.tokens for piece in self._pieces([start, *context], "")] for context in contexts]

    def _request(self, adapter: ModelAdapter, pieces: Sequence[Piece]) -> Request:
        """A prompt with chunks, kept in the strategy's way."""
        strategy = self.strategy
        if not isinstance(strategy, CacheCraft):
            return Request(adapter, self.store, self.known_as, pieces)
        if strategy.variants:
            return VariantRequest(adapter, self.store, self.known_as, pieces, strategy.share, self._variants)
        return RehearsedRequest(adapter, self.store, self.known_as, pieces, strategy.share, self._rehearsals)

    def _pieces(self, segments: Sequence[Segment], model: str) -> list[Piece]:
        with self._lock:
            return pieces_of(segments, self.tokenizer, model)

    def _in_full(self, pieces: Sequence[Piece], why: str) -> Prefilled:
        import torch

        tokens = tuple(token for piece in pieces for token in piece.tokens)
        with torch.no_grad():
            whole = torch.tensor([tokens], device=self.model.device)
            output = self.model(input_ids=whole, use_cache=True, **only_last_logits(self.model))
        cache = output.get("past_key_values", output.get("cache_params"))  # the second: of models without attention
        rows = tuple(SegmentReport(p.kind, len(p.tokens), 0, len(p.tokens), 0, f"computed: {why}") for p in pieces)
        return Prefilled(tokens, cache, output.logits[0, -1].float(), Report(self.strategy.name, True, rows))

    def _behind_prefix(self, request: Request) -> Prefilled:
        request.find_prefix()
        computed = request.place()
        logits = request.assembly.run(computed)
        request.keep_prefix()
        why = "no earlier prompt in the store began like this"
        if self.strategy.reuse != "prefix":
            why = f"{why}, and only exact prefixes are reused: {self.support.reason}"
        return self._done(request, computed, logits, why)

    def _with_chunks(self, request: Request) -> Prefilled:
        request.fetch_chunks()
        missing = request.place()
        chosen = self.strategy.recompute(request)
        length = len(request.tokens)
        if outside := [int(position) for position in chosen if not 0 <= position < length]:
            raise InputError(
                f"strategy {self.strategy.name!r} chose position {outside[0]} of a prompt of {length} tokens"
            )
        computed = np.union1d(missing, chosen)
        logits = request.run(computed)
        return self._done(request, computed, logits)

    def _done(self, request: Request, computed: NDArray[np.int64], logits: Any, otherwise: str = "") -> Prefilled:
        """`otherwise`: why a piece that could have been reused was not, where only prefixes are."""
        run = np.zeros(len(request.tokens), bool)
        run[computed] = True
        exact = True
        rows = []
        for at, piece in enumerate(request.pieces):
            again, length = int(run[piece.start : piece.stop].sum()), len(piece.tokens)
            states = request.states.get(at)
            why = request.explain(at, again)
            if states is None and otherwise and piece.kind != "question":
                why = f"computed: {otherwise}"
            as_before = states is None or (states.key.context == piece.before and not states.rounded)
            exact = exact and (as_before or again == length)
            if request.stored[at]:
                why += "; it was missing in the store and first computed for it"
            rows.append(
                SegmentReport(piece.kind, length, length - again, again, request.stored[at], why, request.overhead(at))
            )
        report = Report(self.strategy.name, exact, tuple(rows), request.checked)
        return Prefilled(request.tokens, request.assembly.cache(), logits, report)
