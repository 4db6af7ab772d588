"""Writes tiny models as GGUF files, by the conventions of llama.cpp's converter."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tests.ingest.tiny import backend

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write_gguf(
    folder: Path,
    path: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    *,
    architecture: str = "llama",
    without: tuple[str, ...] = (),
    **said: Any,
) -> Path:
    """The Llama in `folder`, with the tokenizer of the tests, as `path`.

    Matrices are stored as `kind`. Metadata that begins with one of `without`, and tensors of such a name, are left
    out; `said` is more metadata, with __ for a dot.
    """
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = network.config
    writer = gguf.GGUFWriter(path, architecture)
    values: dict[str, Any] = {
        "general.name": "Tiny",
        "general.license": "mit",
        "general.file_type": 7 if kind == gguf.GGMLQuantizationType.Q8_0 else 0,
        f"{architecture}.context_length": config.max_position_embeddings,
        f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.block_count": config.num_hidden_layers,
        f"{architecture}.feed_forward_length": config.intermediate_size,
        f"{architecture}.attention.head_count": config.num_attention_heads,
        f"{architecture}.attention.head_count_kv": config.num_key_value_heads,
        f"{architecture}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{architecture}.rope.freq_base": config.rope_parameters["rope_theta"],
        f"{architecture}.rope.dimension_count": config.hidden_size // config.num_attention_heads,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": TEMPLATE,
        **{key.replace("__", "."): value for key, value in said.items()},
    }
    adding = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    for key, value in values.items():
        if not key.startswith(without or "-"):
            adding[type(value)](key, value)
    if "tokenizer.ggml.tokens" not in without:
        vocabulary = backend().get_vocab()
        writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
        writer.add_token_types([3] + [1] * (len(vocabulary) - 1))
        writer.add_token_merges(_merges())
    for name, weight in network.state_dict().items():
        if not named(name).startswith(without or "-"):
            values_of = weight.numpy()
            if "q_proj" in name or "k_proj" in name:
                values_of = _in_halves(values_of, config.num_attention_heads)
            stored = kind if weight.ndim == 2 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(named(name), gguf.quantize(values_of, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def named(name: str) -> str:
    """What llama.cpp calls a weight of a Llama."""
    stem, _, ending = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, number, part = stem.split(".", 3)
        return f"blk.{number}.{_NAMES[part]}.{ending}"
    return f"{_NAMES[stem]}.{ending}"


def _in_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp turns neighbouring rows by one angle, transformers those half a head apart."""
    return np.ascontiguousarray(weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape))


def _merges() -> list[str]:
    found = json.loads(backend().to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in found]
