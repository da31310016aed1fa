"""Managers of the language models that a program has loaded: one a model and strategy, over one store a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias
from weakref import WeakSet

from rag.kvcache import KVCacheManager, MemoryStore, Segment, TieredStore
from rag.kvcache.folder import user_store
from rag.kvcache.strategies import Prefix, Strategy
from rag.models import Prefill, PrefillingModel
from rag.models.parts import joined
from rag.types import Message

__all__ = ["SegmentedTurn", "held_bytes", "manager_of", "messages_of", "prefill_of", "segments_of"]

SegmentedTurn: TypeAlias = "tuple[str, Sequence[Segment]]"
"""The role of a message, and its content as segments with texts."""

_stores: WeakSet[MemoryStore | TieredStore] = WeakSet()


def manager_of(model: PrefillingModel, strategy: Strategy) -> KVCacheManager:
    """The manager of a loaded model with this strategy, made once and shared by all runs.

    All managers of a model have one store of 1 GiB in memory, over the user's folder where that is set up (see
    `rag cache warm`). The first call looks at the model (seconds).
    """

    def first() -> KVCacheManager:
        store = user_store(model.network.device)
        _stores.add(store)
        return KVCacheManager(model.network, model.tokenizer, strategy=Prefix(), store=store)

    base: KVCacheManager = model.kept("kvcache", first)
    _ = base.known_as  # found out once, for all strategies
    manager: KVCacheManager = model.kept(f"kvcache {strategy!r}", lambda: base.with_strategy(strategy))
    return manager


def held_bytes() -> int:
    """Bytes of keys and values that the stores of all loaded models hold in memory now."""
    return sum(store.nbytes for store in list(_stores))


def messages_of(turns: Sequence[SegmentedTurn]) -> list[Message]:
    """The messages that these segments make up."""
    return joined([(role, [segment.text for segment in content]) for role, content in turns])


def segments_of(model: PrefillingModel, turns: Sequence[SegmentedTurn]) -> list[Segment]:
    """The prompt that a model makes of these messages, as segments of its very tokens; see `prompt_parts`."""
    parts = model.prompt_parts([(role, [segment.text for segment in content]) for role, content in turns])
    kinds = [segment.kind for _, content in turns for segment in content]
    return [Segment(kind, tokens=tokens) for kind, tokens in zip(kinds, parts, strict=True)]


def prefill_of(model: PrefillingModel, turns: Sequence[SegmentedTurn], strategy: Strategy) -> Prefill:
    """What `PrefillingModel.stream` takes to read these messages with cached segments."""
    segments = segments_of(model, turns)
    tokens = tuple(token for segment in segments for token in segment.tokens or ())
    manager = manager_of(model, strategy)
    manager.prefetch(segments)  # others may be written for first
    return Prefill(tokens, lambda: manager.prefill(segments))
