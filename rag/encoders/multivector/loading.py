"""From the name of an encoder to one that gives token vectors."""

from __future__ import annotations

from rag.encoders.bert import BertEncoder
from rag.encoders.checkpoint import Checkpoint
from rag.encoders.loading import DEFAULT, find_checkpoint, hashing_encoder, kind_of, load_checkpoint
from rag.encoders.multivector.encoder import LateInteractionEncoder, TokenStateEncoder, Transformer
from rag.encoders.multivector.hashing import HashingTokenEncoder
from rag.encoders.multivector.layout import read_layout
from rag.encoders.multivector.states import TorchTransformer
from rag.encoders.native import NativeTransformer, unsupported_transformer
from rag.encoders.protocol import MultiVectorEncoder
from rag.errors import ConfigError

__all__ = ["load_multi_vector"]


def load_multi_vector(spec: str = DEFAULT, *, pool_factor: int = 1, threads: int = 0) -> MultiVectorEncoder:
    """The encoder of token vectors that `spec` names. Weights are read on first use where torch is not needed.

    - "all-MiniLM-L6-v2" (the default), "ORG/NAME" on the Hugging Face hub, or a folder. A checkpoint trained for late
      interaction (ColBERT, PyLate, sentence-transformers' MultiVectorEncoder) gives what it was trained to give; any
      other gives its last token states. BERT and RoBERTa run without torch, the rest with transformers (extra `local`)
    - "st:NAME": the same checkpoint with torch in any case
    - "hashing" or "hashing:DIM": every word as the `HashingEncoder` hashes it, no model at all

    `pool_factor` 2 to 4 keeps fewer vectors of documents (`pool`); `threads` 0 means all cores. Raises NotFoundError
    for a name that leads nowhere, ConfigError for an encoder that has no tokens, ModelError for a checkpoint whose
    layout is not known or incomplete, MissingExtraError without torch where it is needed.
    """
    spec = spec.strip()
    kind, rest = kind_of(spec)
    if kind == "hashing":
        return HashingTokenEncoder(hashing_encoder(rest), pool_factor=pool_factor)
    if kind in ("openai", "fde"):
        raise ConfigError(f"{spec!r} gives one vector a text and no token vectors", hint=f"for example {DEFAULT!r}")
    checkpoint = Checkpoint.read(find_checkpoint(rest))
    layout = read_layout(checkpoint)
    if layout.trained:
        transformer: Transformer
        if kind == "st" or unsupported_transformer(checkpoint):
            transformer = TorchTransformer(checkpoint, threads=threads)
        else:
            transformer = NativeTransformer(checkpoint, threads=threads)
        return LateInteractionEncoder(checkpoint, layout, transformer, name=spec, pool_factor=pool_factor)
    single = load_checkpoint(checkpoint, spec, by_torch=kind == "st", threads=threads)
    if isinstance(single, BertEncoder):
        transformer = single.transformer
    else:
        transformer = TorchTransformer(checkpoint, model=single.transformer)
    return TokenStateEncoder(checkpoint, layout, transformer, single, name=spec, pool_factor=pool_factor)
