"""Tiny random causal language models of any architecture that transformers has a configuration for."""

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig

from tests.ingest.tiny import CONTEXT, VOCABULARY, D, save_tokenizer

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": D,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
"""Shape by the names that `attribute_map` translates for most families."""

VISION = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 28,
    "patch_size": 14,
}
EXTRA: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 2, "n_head": 2, "hidden_size": D},
    "codegen": {"n_ctx": CONTEXT, "num_attention_heads": 4, "rotary_dim": 4, "n_inner": 24},
    "cohere": {"num_key_value_heads": 2},
    "cohere2": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "ctrl": {"dff": 24},
    "falcon": {"ffn_hidden_size": 24, "num_kv_heads": 2},
    "falcon_mamba": {"state_size": 4, "expand": 2, "time_step_rank": 2},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "gemma2": {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_bigcode": {"n_inner": 24},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gpt_oss": {
        "num_key_value_heads": 1,
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 4,
    },
    "gptj": {"rotary_dim": 4, "n_inner": 24},
    "granite": {
        "num_key_value_heads": 1,
        "logits_scaling": 8.0,
        "residual_multiplier": 0.22,
        "embedding_multiplier": 12.0,
    },
    "stablelm": {"num_key_value_heads": 2, "head_dim": 8},
    "lfm2": {"num_key_value_heads": 2, "head_dim": 8},
    "helium": {"num_key_value_heads": 2, "head_dim": 8},
    "exaone4": {"num_key_value_heads": 2, "head_dim": 8},
    "glm": {"num_key_value_heads": 2, "head_dim": 8},
    "mamba": {"state_size": 4, "expand": 2, "time_step_rank": 2},
    "mamba2": {"state_size": 4, "expand": 2, "head_dim": 8, "num_heads": 4, "n_groups": 1, "chunk_size": 8},
    "mixtral": {"num_key_value_heads": 1, "num_local_experts": 4},
    "mpt": {"expansion_ratio": 2, "max_seq_len": CONTEXT},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": D},
    "phi": {"num_key_value_heads": 2, "partial_rotary_factor": 0.5},
    "qwen2_moe": {
        "num_key_value_heads": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": 12,
    },
    "qwen3": {"num_key_value_heads": 1, "head_dim": 8},
    "qwen3_moe": {
        "num_key_value_heads": 1,
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 12,
    },
    "roberta": {"pad_token_id": 1, "max_position_embeddings": CONTEXT + 2},
    "rwkv": {"attention_hidden_size": D, "context_length": CONTEXT},
    "recurrent_gemma": {"lru_width": D, "attention_window_size": 4, "num_key_value_heads": 1, "head_dim": 8},
}
"""What a family needs besides."""


def make_config(kind: str, **settings: Any) -> PreTrainedConfig:
    """The configuration of a tiny model of the type `kind`; nested where the type keeps its text model apart."""
    made = CONFIG_MAPPING[kind]
    shape = {**SHAPE, **EXTRA.get(kind, {}), **settings}
    if "text_config" in getattr(made, "sub_configs", {}):
        return made(text_config={**shape, "num_key_value_heads": 1, "head_dim": 8}, vision_config=VISION)
    return made(**shape)


def make(folder: Path, kind: str, *, bos: bool = True, seed: int = 0, **settings: Any) -> Path:
    """A random model of two layers and width 16 of the type `kind`, saved with a tokenizer of 320 tokens."""
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_config(make_config(kind, **settings))
    spread(network)
    network.save_pretrained(folder)
    save_tokenizer(folder, bos)
    return folder


def spread(network: torch.nn.Module) -> None:
    """Norms' gains and biases that are not all 1 and 0: a lens that leaves one out would look right otherwise."""
    draws = torch.Generator().manual_seed(7)
    for name, weight in network.named_parameters():
        if weight.ndim == 1 and weight.is_floating_point() and ("norm" in name or "ln" in name or "bias" in name):
            weight.data += 0.3 * torch.randn(weight.shape, generator=draws).to(weight)
