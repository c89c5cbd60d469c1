"""Wraps a model in LoRA adapters, and merges adapters so that the merged model computes what the adapted one did."""

import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model

from logitlake.pipeline.settings.models import LoraSettings
from logitlake.storage.errors import SettingsError


def with_lora(model: Any, lora: LoraSettings) -> Any:
    """The model wrapped by PEFT. Raises SettingsError for target modules that PEFT refuses, or that can't be merged."""
    targets = lora.target_modules
    if not isinstance(targets, str):
        # PEFT compares names by their ends.
        ends = tuple(f".{target}" for target in targets)
        _separate(model, lambda module: f".{module}".endswith(ends), "student.lora.target_modules")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type=TaskType.CAUSAL_LM,
    )
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that is about to change; nobody here can mend that.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            return get_peft_model(model, config)
    except ValueError as error:
        raise SettingsError(f"student.lora: {error}") from None


def merged(adapted: Any, what: str) -> Any:
    """The model of a PEFT model with its adapters merged, in place. `what` begins every message."""
    _separate(adapted.get_base_model(), lambda module: module.endswith(".base_layer"), what)
    return adapted.merge_and_unload()


def _separate(model: Any, is_adapted: Callable[[str], bool], what: str) -> None:
    """Give the output layer weights of its own if it shares them with the embedding and one of the two is adapted.

    Else merging would change both, where the adapter changed one. Raises SettingsError for other shared weights.
    """
    names_of: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names_of[id(parameter)].append(name)
    head, embedding = (_plain(layer) for layer in (model.get_output_embeddings(), model.get_input_embeddings()))
    for names in names_of.values():
        modules = [name.rpartition(".")[0] for name in names]
        adapted = next((module for module in modules if is_adapted(module)), None)
        if len(names) == 1 or adapted is None:
            continue
        if {id(model.get_submodule(module)) for module in modules} != {id(head), id(embedding)}:
            other = next(module for module in modules if module != adapted)
            raise SettingsError(
                f"{what}: {adapted} has the same weights as {other}, and a merged adapter would change both; use an "
                "adapter that leaves both out"
            )
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def _plain(layer: Any) -> Any:
    """A layer without the adapter around it."""
    return getattr(layer, "base_layer", layer)
