"""How a checkpoint makes token vectors, read from the layouts in which late-interaction models are published."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rag.encoders.checkpoint import Checkpoint, most_positions, read_json
from rag.encoders.multivector.projection import Projection
from rag.errors import ModelError

__all__ = ["Layout", "Side", "read_layout"]

_PYLATE = ("query_prefix", "document_prefix", "query_length", "document_length", "do_query_expansion", "skiplist_words")
_MODULES = {"Dense", "MultiVectorMask"}


@dataclass(frozen=True)
class Side:
    """How queries, or documents, become tokens.

    `prompt` is put before the text and `marker`, one token, behind its first token; of all this the first `max_tokens`
    tokens are read. A text of fewer than `expand_to` tokens is filled up with `expansion` tokens (empty: the mask
    token, or else the end token). Tokens in `skip` make no vectors.
    """

    max_tokens: int
    prompt: str = ""
    marker: str = ""
    expand_to: int = 0
    expansion: str = ""
    attend_to_expansion: bool = False
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Both sides, the layers from token states to token vectors, and whether the model was trained for this.

    A trained model's special tokens, markers and prompts make vectors too; those of any other transformer do not.
    """

    query: Side
    document: Side
    projections: tuple[Projection, ...] = ()
    trained: bool = False


def read_layout(checkpoint: Checkpoint) -> Layout:
    """The layout of a checkpoint folder; ModelError for one that names parts which are not known or missing.

    - ColBERT and ColBERTv2 (architecture HF_ColBERT, settings in artifact.metadata), Santhanam et al. 2022
      (arXiv:2112.01488), appendix; https://github.com/stanford-futuredata/ColBERT
    - PyLate (token-level Dense modules, settings in config_sentence_transformers.json), https://github.com/lightonai/pylate
    - sentence-transformers' multi-vector encoders (settings in the modules' own files), https://sbert.net
    - any other transformer: the last states of its tokens
    """
    settings = read_json(checkpoint.folder / "config_sentence_transformers.json") or {}
    kinds = [kind for _, kind in checkpoint.modules]
    if "HF_ColBERT" in (checkpoint.config.get("architectures") or []):
        return _colbert(checkpoint)
    if settings.get("model_type") in ("ColBERT", "MultiVectorEncoder") or "MultiVectorMask" in kinds:
        return _modular(checkpoint, settings)
    if any(key in settings for key in _PYLATE):
        return _modular(checkpoint, settings)
    return Layout(
        Side(checkpoint.max_tokens, checkpoint.query_prompt), Side(checkpoint.max_tokens, checkpoint.document_prompt)
    )


def _colbert(checkpoint: Checkpoint) -> Layout:
    settings = read_json(checkpoint.folder / "artifact.metadata") or {}
    query_length = _bounded(checkpoint, settings.get("query_maxlen") or 32)
    return Layout(
        query=Side(
            query_length,
            marker=settings.get("query_token_id") or "[unused0]",
            expand_to=query_length,
            attend_to_expansion=bool(settings.get("attend_to_mask_tokens")),
        ),
        document=Side(
            _bounded(checkpoint, settings.get("doc_maxlen") or 220),
            marker=settings.get("doc_token_id") or "[unused1]",
            skip=tuple(string.punctuation) if settings.get("mask_punctuation", True) else (),
        ),
        projections=(Projection.from_colbert(checkpoint),),
        trained=True,
    )


def _modular(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Layout:
    """PyLate's layout and sentence-transformers' own: they differ in where the same settings stand."""
    if unknown := sorted({kind for _, kind in checkpoint.modules} - _MODULES):
        raise ModelError(
            f"{str(checkpoint.folder)!r} has modules that token vectors cannot go through here: {', '.join(unknown)}",
            hint="pooling of tokens is a setting of the encoder: pool_factor",
        )
    transformer = read_json(checkpoint.root / "sentence_bert_config.json") or {}
    masks = [
        read_json(checkpoint.folder / path / "config.json") or {}
        for path, kind in checkpoint.modules
        if kind == "MultiVectorMask"
    ]
    if any(mask.get("keep_only_token_ids") for mask in masks):
        raise ModelError(f"{str(checkpoint.folder)!r} keeps only some token ids, as encoders of images do")
    expansion = _expansion(transformer, settings)
    at_least = int(expansion.get("length") or 0)
    query_length = transformer.get("query_length") or settings.get("query_length") or checkpoint.max_tokens
    document_length = transformer.get("document_length") or settings.get("document_length")
    if not document_length and "query_prefix" in settings:
        document_length = 180
    return Layout(
        query=Side(
            _bounded(checkpoint, at_least if expansion.get("strategy") == "fixed" else max(query_length, at_least)),
            prompt=checkpoint.query_prompt,
            marker=settings.get("query_prefix") or "",
            expand_to=_bounded(checkpoint, at_least),
            expansion=expansion.get("token") or "",
            attend_to_expansion=bool(expansion.get("attend")),
            skip=_skip("query", masks, settings),
        ),
        document=Side(
            _bounded(checkpoint, document_length or checkpoint.max_tokens),
            prompt=checkpoint.document_prompt,
            marker=settings.get("document_prefix") or "",
            skip=_skip("document", masks, settings),
        ),
        projections=tuple(
            Projection.from_module(checkpoint.folder / path) for path, kind in checkpoint.modules if kind == "Dense"
        ),
        trained=True,
    )


def _expansion(transformer: Mapping[str, Any], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The query expansion in sentence-transformers' terms; PyLate fills queries up unless it says that it does not."""
    for place in (transformer, settings):
        if "query_expansion" in place:
            return place["query_expansion"] or {}
    if not any(key in settings for key in _PYLATE) or settings.get("do_query_expansion") is False:
        return {}
    attend = bool(settings.get("attend_to_expansion_tokens"))
    return {"strategy": "fixed", "length": settings.get("query_length") or 32, "attend": attend}


def _skip(side: str, masks: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The tokens that make no vectors on one side: as the mask modules say, else as PyLate does."""
    if masks:
        chosen = [mask for mask in masks if side in (mask.get("skiplist_tasks") or ["document"])]
        return tuple(word for mask in chosen for word in mask.get("skiplist_words") or [])
    if side == "query":
        return ()
    words = settings.get("skiplist_words")
    if words is None and any(key in settings for key in _PYLATE):
        words = string.punctuation
    return tuple(words or ())


def _bounded(checkpoint: Checkpoint, length: int) -> int:
    return min(int(length), most_positions(checkpoint.config))
