"""Tiny random language models, each with a byte-level tokenizer trained on a few texts, and plain references."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rag.models.local import TransformersModel

TEXTS = [
    "the cat sat on the mat and the dog lay in the yard",
    "a question is a sentence that asks for an answer",
    "Grüße aus Köln, 日本語",
] * 4


def save_tiny_models(folder: Path, context: int = 64) -> dict[str, Path]:
    """A Llama, a GPT-2, and a Gemma 3 of which one layer sees eight tokens back; all hold `context` tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    torch.manual_seed(0)
    size = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 0}
    llama = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        initializer_range=0.5,
        **size,
    )
    gpt2 = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=context, initializer_range=0.5, **size)
    gemma = Gemma3TextConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        max_position_embeddings=context,
        initializer_range=0.5,
        pad_token_id=0,
        **size,
    )
    made = {}
    models = {"llama": LlamaForCausalLM(llama), "gpt2": GPT2LMHeadModel(gpt2), "gemma": Gemma3ForCausalLM(gemma)}
    for name, model in models.items():
        made[name] = folder / name
        model.save_pretrained(made[name])
        fast.save_pretrained(made[name])
    return made


def distribution(model: TransformersModel, ids: list[int]) -> Any:
    """Log-probabilities of the next token, by one pass over the whole text."""
    import torch

    with torch.no_grad():
        return torch.log_softmax(model._model(torch.tensor([ids]), use_cache=False).logits[0, -1].double(), -1)


def mixed(
    model: TransformersModel, prompts: list[str], weights: list[float], steps: int
) -> tuple[list[int], list[float]]:
    """The mixture decoded greedily, every distribution computed anew at every step."""
    said: list[int] = []
    logprobs = []
    for _ in range(steps):
        each = [distribution(model, [*model._tokenizer(p)["input_ids"], *said]).exp() for p in prompts]
        together = sum(w / sum(weights) * p for w, p in zip(weights, each, strict=True))
        token = int(together.argmax())
        if token in model._ends:
            break
        said.append(token)
        logprobs.append(math.log(float(together[token])))
    return said, logprobs
