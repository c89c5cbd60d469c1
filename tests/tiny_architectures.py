"""Tiny random models of many architectures, with settings that make every layer matter."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 300
# Under whatever names a config has for them; a config takes those that it knows.
_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads"), 4),
    **dict.fromkeys(("head_dim", "rotary_dim", "state_size", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 128),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("initializer_range", "init_std"), 0.3),
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# What single architectures need; None leaves a setting out.
_OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3], "layer_types": None},
    "falcon": {"head_dim": None},
    "falcon_h1": {"mamba_d_ssm": 64, "head_dim": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "layer_types": None},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
}


def tiny_model(model_type: str) -> Any:
    """A random model in float32, ready to be asked; the same for the same type."""
    config = AutoConfig.for_model(model_type)
    text = config.get_text_config()
    known = text.to_dict()
    settings = {name: value for name, value in _SETTINGS.items() if name in known or _has(text, name)}
    if "qk_rope_head_dim" in settings:
        # Latent attention: keys of all heads, and the sizes of a head are its own.
        settings.pop("head_dim", None)
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    if kinds := known.get("layer_types"):
        # As many kinds of layers as four layers can hold.
        settings["layer_types"] = (list(dict.fromkeys(kinds)) * 4)[:4]
    settings = {name: value for name, value in {**settings, **_OWN.get(model_type, {})}.items() if value is not None}
    if text is not config:
        settings = {"text_config": {**settings, "model_type": text.model_type}}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(type(config)(**settings)).eval()


def _has(config: Any, name: str) -> bool:
    """Whether a config has a setting under another name of its own; some raise other errors than AttributeError."""
    try:
        return hasattr(config, name)
    except Exception:
        return False
