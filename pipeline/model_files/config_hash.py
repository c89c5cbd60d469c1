"""The hash of the part of a config that decides what a model computes.

transformers reads the config, because only it knows the defaults and the older spellings: a config that was saved again
by another version has the same hash. What equals the default of its class is left out, so that a setting that a later
version adds changes no hash. The result is cached by the file's content, because reading a config imports torch.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from logitlake.pipeline.model_files.fingerprints import cache_directory, read_json, write_json
from logitlake.pipeline.model_files.load_errors import LOAD_ERRORS
from logitlake.storage.identity import canonical_json, digest

# Raise it with every change of what is hashed: cached hashes are then made anew.
_METHOD = b"config 1"
# Where a model lies, who wrote it, how it is trained, how text is generated, and what its outputs are called: nothing
# of this changes a logit of a model in evaluation mode. The dtype is a setting of its own.
_NO_PART = frozenset(
    [
        *("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "name_or_path"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
        *("initializer_range", "initializer_factor", "init_std", "embed_init_std"),
        *("router_aux_loss_coef", "z_loss_coef", "aux_loss_alpha", "router_jitter_noise", "seq_aux"),
        *("output_router_logits", "output_attentions", "output_hidden_states", "return_dict", "use_return_dict"),
        *("use_cache", "gradient_checkpointing", "chunk_size_feed_forward", "pretraining_tp", "torchscript"),
        *("problem_type", "id2label", "label2id", "num_labels", "task_specific_params", "finetuning_task"),
        *("max_length", "min_length", "do_sample", "num_beams", "repetition_penalty"),
    ]
)


def hash_config(directory: Path, *, trust_remote_code: bool = False) -> str:
    """Hash of the deciding part of `config.json`, and of the model's own code where that is trusted.

    A config that transformers can't read is hashed as it is written.
    """
    content = (directory / "config.json").read_bytes()
    code = _code(directory) if trust_remote_code else b""
    key = digest(_METHOD, content, code, str(trust_remote_code).encode(), version("transformers").encode())
    entry = cache_directory() / "configs" / f"{key}.json"
    cached = read_json(entry)
    if isinstance(cached, str):
        return cached
    part = _deciding_part(directory, trust_remote_code)
    found = digest(b"config", canonical_json(_without(json.loads(content), {}) if part is None else part), code)
    if part is not None:
        # Not where the config could not be read: a package may be missing today and installed tomorrow.
        write_json(entry, found)
    return found


def _code(directory: Path) -> bytes:
    return b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sorted(directory.glob("*.py")))


def _deciding_part(directory: Path, trust_remote_code: bool) -> dict[str, Any] | None:
    """What differs from the defaults; None for a config that transformers can't read."""
    # Imported here: it imports torch, and the result is cached.
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
        found: dict[str, Any] = config.to_dict()
    except LOAD_ERRORS:
        return None
    default: dict[str, Any] = {}
    with contextlib.suppress(*LOAD_ERRORS):
        default = type(config)().to_dict()
    return {"model_type": found.get("model_type"), **_without(found, default)}


def _without(content: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the default, without what is no part of the function; sections likewise."""
    kept: dict[str, Any] = {}
    for name, value in content.items():
        # The older name of a kind of RoPE, kept by transformers beside the newer one.
        if name == "type" and "rope_type" in content:
            continue
        if name in _NO_PART or name.startswith("_") or name.endswith(("dropout", "_pdrop", "drop_rate")):
            continue
        usual = default.get(name)
        if isinstance(value, Mapping):
            value = _without(value, usual if isinstance(usual, Mapping) else {})
            if not value and name in default:
                continue
        elif name in default and _plain(value) == _plain(usual):
            continue
        kept[name] = _plain(value)
    return kept


def _plain(value: Any) -> Any:
    """JSON with one spelling of each number: 10000.0 is 10000."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
