"""How a prompt of passages is read by a local model: with which of its cached keys and values."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeAlias

from rag.collection import Collection
from rag.errors import ConfigError
from rag.kvcache import Segment
from rag.kvcache.hosting import SegmentedTurn, manager_of, prefill_of
from rag.kvcache.quality import Agreement, Quality, Recompute, by_share
from rag.kvcache.strategies import Prefix, Strategy
from rag.kvcache.verdict import find_verdict
from rag.models import ChatModel, Prefill, PrefillingModel, can_prefill
from rag.operators.prompts import Prompt
from rag.types import Passage

__all__ = ["KVCache", "passage_segments", "reading", "template_of"]

log = logging.getLogger("rag.kvcache")

KVCache: TypeAlias = Literal["none", "auto", "prefix", "chunks"]


def passage_segments(passages: Sequence[Passage]) -> list[Segment]:
    """Passages as the model sees them. Its number is no part of a chunk, so that a chunk is the same at every rank."""
    segments = []
    for passage in passages:
        title, page = passage.metadata.get("title"), passage.metadata.get("page")
        head = ", ".join(part for part in (str(title) if title else "", f"page {page}" if page else "") if part)
        text = f"{head}\n{passage.reading}" if head else passage.reading
        end = "" if passage is passages[-1] else "\n\n"
        segments += [Segment("instructions", f"[{passage.number}]"), Segment("chunk", f" {text}{end}")]
    return segments


def template_of(prompt: Prompt, not_found: str, llm: PrefillingModel) -> str:
    """What a verdict on prompts of this template is known by."""
    parts = [llm.template, prompt.system, prompt.user, not_found]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def reading(
    kv_cache: KVCache,
    quality: Quality,
    llm: ChatModel,
    turns: Sequence[SegmentedTurn],
    *,
    prompt: Prompt,
    not_found: str,
    collection: Collection | None,
) -> Prefill | None:
    """What reads the prompt with cached keys and values, or None where the model reads it by itself.

    Raises ConfigError when the model is not one that runs in this process, unless `kv_cache` is `auto`.
    """
    if kv_cache == "none":
        return None
    if not can_prefill(llm):
        if kv_cache == "auto":
            return None
        raise ConfigError(
            f"kv_cache is {kv_cache!r}, but the keys and values of {llm.name} are out of reach",
            hint="take a model that runs in this process, local:NAME, or kv_cache none",
        )
    model: PrefillingModel = llm  # type: ignore[assignment]
    strategy: Strategy = Prefix()
    if kv_cache != "prefix" and not _remembers(turns):
        if isinstance(quality, Recompute):
            strategy = by_share(quality.share)
        elif isinstance(quality, Agreement):
            strategy = _shown(quality, model, turns, template_of(prompt, not_found, model), collection) or strategy
    return prefill_of(model, turns, strategy)


def _remembers(turns: Sequence[SegmentedTurn]) -> bool:
    """Whether there is a conversation before the question: chunks would be cached behind every state of it anew."""
    return sum(role != "system" for role, _ in turns) > 1


def _shown(
    quality: Agreement,
    model: PrefillingModel,
    turns: Sequence[SegmentedTurn],
    template: str,
    collection: Collection | None,
) -> Strategy | None:
    """The cheapest strategy that a check of the collection has shown to be as good as is asked for."""
    if collection is None:
        return None
    verdict = find_verdict(collection.path, manager_of(model, Prefix()).known_as, template)
    if verdict is None:
        _tell_once(
            f"{model.name}: only exact prefixes are reused, since no check of this model and prompt lies in "
            f"{collection.path}: rag cache check {collection.path}"
        )
        return None
    if sum(segment.kind == "chunk" for _, content in turns for segment in content) > verdict.chunks:
        return None  # the check says nothing about longer prompts
    strategy = verdict.strategy(quality.share)
    if strategy is None:
        _tell_once(
            f"{model.name}: only exact prefixes are reused, since the check of {collection.path} shows no strategy "
            f"with an agreement of {quality.share:g}"
        )
    return strategy


@lru_cache(64)
def _tell_once(text: str) -> None:
    log.info(text)
