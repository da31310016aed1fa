"""Tiny random models of many families, their configurations alone; float32, fixed seeds."""

from __future__ import annotations

from typing import Any

VOCABULARY = 128

_SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_ALONE = {"num_key_value_heads": 4}


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
_HYBRID = ["sliding_attention", "full_attention", "sliding_attention"]

_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama linear": ("Llama", _rope("linear", factor=2.0)),
    "llama llama3": ("Llama", _rope("llama3", **_LLAMA3)),
    "llama yarn": ("Llama", _rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    "llama eager": ("Llama", {"attn_implementation": "eager"}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral window": ("Mistral", {"sliding_window": 20}),
    "qwen2": ("Qwen2", {}),
    "qwen2 window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "gemma2": ("Gemma2", {"head_dim": 16, "sliding_window": 20, "query_pre_attn_scalar": 16}),
    "gemma3": (
        "Gemma3Text",
        {"head_dim": 16, "sliding_window": 20, "query_pre_attn_scalar": 16, "layer_types": _HYBRID},
    ),
    "phi3": ("Phi3", {}),
    "gpt neox": ("GPTNeoX", {**_rope("default", partial_rotary_factor=0.5), **_ALONE}),
    "gptj": ("GPTJ", {"rotary_dim": 4, **_ALONE}),
    "cohere": ("Cohere", {}),
    "cohere2": ("Cohere2", {"sliding_window": 20, "layer_types": _HYBRID}),
    "glm": ("Glm", {"head_dim": 16, **_rope("default", partial_rotary_factor=0.5)}),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 0, 1]}),
    "olmo2": ("Olmo2", {}),
    "gpt oss": (
        "GptOss",
        {
            "head_dim": 16,
            "sliding_window": 20,
            "layer_types": _HYBRID,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
        },
    ),
}
"""Families of which chunks can be moved."""

_FAMILIES["gemma3 words"] = ("Gemma3Text", {**_FAMILIES["gemma3"][1], "vocab_size": 320})

_OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512}),
    "bloom": ("Bloom", {}),
    "llama dynamic": ("Llama", _rope("dynamic", factor=2.0)),
    "phi3 longrope": (
        "Phi3",
        {
            **_rope("longrope", short_factor=[1.0] * 4, long_factor=[2.0] * 4),
            "original_max_position_embeddings": 64,
        },
    ),
    "mamba": ("Mamba", {}),
    "llama4": ("Llama4Text", {"head_dim": 16, "attention_chunk_size": 20}),
    "deepseek": (
        "DeepseekV2",
        {
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 12,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            **_ALONE,
        },
    ),
}
"""Families of which they cannot."""

MOVABLE = sorted(_FAMILIES.keys() - {"gemma3 words"})


def make_model(name: str, seed: int = 0, **changes: Any) -> Any:
    """A model of that family with random weights."""
    import torch
    import transformers

    family, settings = {**_FAMILIES, **_OTHERS}[name]
    settings = {**_SIZE, **settings, **changes}
    kernel = settings.pop("attn_implementation", None)
    config = getattr(transformers, f"{family}Config")(**settings)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=kernel)
    return model.to(torch.float32).eval()
