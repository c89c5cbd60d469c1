"""Loads models and adapters whole, or not at all.

transformers and PEFT draw fresh weights for those that the files lack, and leave out those that the config does not
know; both only warn. Here a model is the one of its files, or it is refused.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM

from logitlake.pipeline.model_files.load_errors import LOAD_ERRORS
from logitlake.storage.errors import SettingsError

_NAMED = 3


def load_causal_lm(
    directory: Path | str,
    what: str,
    *,
    dtype: Any,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    attention: str | None = None,
    placement: Mapping[str, Any] | None = None,
) -> Any:
    """The causal language model of a directory, with exactly the weights of its files.

    It is on the CPU, or where `placement` (device_map and what belongs to it) puts each module.

    `what` begins every message, such as `student.model`. Raises SettingsError if transformers can't load it, or if a
    weight was missing, left over or of another shape.
    """
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
            **(placement or {}),
        )
    except LOAD_ERRORS as error:
        raise SettingsError(f"{what} {directory}: transformers can't load it: {error}") from None
    check_whole(model, found, f"{what} {directory}")
    if _was_dequantised(model, Path(directory)):
        _convert(model, dtype)
    return model


def _was_dequantised(model: Any, directory: Path) -> bool:
    """Whether the files are quantised and the model is not: as transformers loads fp8 where no kernel computes it."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(config.get("quantization_config")) and not getattr(model, "is_quantized", False)


def _convert(model: Any, dtype: Any) -> None:
    """Bring all parameters to `dtype`, but for those that the model's code keeps in float32.

    transformers dequantises to this dtype, and leaves what was not quantised in that of the files.
    """
    keep = [*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())]
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not any(part in name for part in keep):
            parameter.data = parameter.data.to(dtype)


def check_whole(model: Any, found: Mapping[str, Any], where: str) -> None:
    """Raises SettingsError if transformers made up or left out a weight; `found` is its loading info."""
    name = type(model).__name__
    if missing := sorted(found["missing_keys"]):
        raise SettingsError(
            f"{where}: {name} needs {_named(missing)}, which the weight files lack; transformers would make "
            "random ones; copy the files again, or correct config.json (tie_word_embeddings, number of layers)"
        )
    # Constants that older versions of transformers saved with the weights, such as the causal mask.
    constants = {buffer for buffer, _ in model.named_buffers()}
    left_over = [key for key in found["unexpected_keys"] if key not in constants and not _is_constant(key)]
    if unexpected := sorted(left_over):
        raise SettingsError(
            f"{where}: the weight files hold {_named(unexpected)}, which {name} has no place for: "
            "config.json describes another model; correct it, or load the model by transformers and save it anew"
        )


def load_adapter(model: Any, directory: Path, what: str, *, allow_pickle: bool = False) -> PeftModel:
    """The model with a PEFT adapter of exactly the weights of its files; the layers are not merged.

    Raises SettingsError if it adds virtual tokens, does not fit the model, or if a weight was missing or left over.
    """
    try:
        config = PeftConfig.from_pretrained(str(directory))
        if config.is_prompt_learning:
            raise SettingsError(
                f"{what} {directory}: {config.peft_type} adds virtual tokens, which a cached sequence can't hold; use "
                "an adapter that changes layers, such as LoRA"
            )
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that is about to change; nobody here can mend that.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            warnings.filterwarnings("ignore", "Found missing adapter keys.*")
            # It warns of merging, which needs care where layers share weights; see students/lora.py.
            warnings.filterwarnings("ignore", ".*ensure_weight_tying.*", UserWarning)
            adapted = PeftModel.from_pretrained(model, str(directory), use_safetensors=not allow_pickle)
            # The first load hides what is left over; loading again returns it, and what is missing.
            found = adapted.load_adapter(str(directory), adapted.active_adapter, use_safetensors=not allow_pickle)
    except LOAD_ERRORS as error:
        raise SettingsError(f"{what} {directory}: does not fit the model: {error}") from None
    if missing := sorted(found.missing_keys):
        raise SettingsError(
            f"{what} {directory}: adapter_config.json asks for {_named(missing)}, which the weight files lack; copy "
            "the adapter again"
        )
    if unexpected := sorted(found.unexpected_keys):
        raise SettingsError(
            f"{what} {directory}: the weight files hold {_named(unexpected)}, which the model has no place for; it was "
            "made for another model, or adapter_config.json is another adapter's"
        )
    return adapted


def _is_constant(name: str) -> bool:
    """The causal mask of attention and its fill value, and the frequencies of RoPE, under the names of older files."""
    return name.endswith((".attn.bias", ".attention.bias", ".masked_bias", ".causal_mask", ".rotary_emb.inv_freq"))


def _named(names: list[str]) -> str:
    """The first weights and their number, so that a message stays short."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} weight{'s' * (len(names) > 1)} ({', '.join(names[:_NAMED])}{more})"
