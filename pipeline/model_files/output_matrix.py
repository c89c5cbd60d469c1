"""Loads the output layer of a causal model without the rest of it: a few tensors of the weight files.

The rest stays on torch's `meta` device, which has shapes and no memory.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from logitlake.pipeline.model_files.files import safetensors_files
from logitlake.pipeline.model_files.load_errors import LOAD_ERRORS
from logitlake.storage.errors import MismatchError, SettingsError


def load_output_matrix(
    directory: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool,
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """A transformers model of which the output matrix, and its bias if it has one, is on `device` in `dtype`.

    `overrides` of the config are those that the body is run with. Where input and output share their matrix and the
    files hold one of the two, that one is read. Raises SettingsError if transformers does not know the model, if the
    files hold no such matrix, or if it is quantised.
    """
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
        config.update(dict(overrides or {}))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    except LOAD_ERRORS as error:
        raise SettingsError(f"teacher {directory}: transformers can't make its output layer: {error}") from None
    head = model.get_output_embeddings()
    if head is None:
        raise SettingsError(f"teacher {directory}: {type(model).__name__} has no output matrix")
    embedding = model.get_input_embeddings()
    model.tie_weights()
    tied = head.weight is embedding.weight
    owners = [_path_of(model, head), *([_path_of(model, embedding)] if tied else [])]
    names = _names_in_files(model, directory)
    for name, parameter in list(head.named_parameters(recurse=False)):
        paths = [f"{owner}.{name}" for owner in owners]
        tensor = _tensor(directory, paths, names, tuple(parameter.shape))
        setattr(head, name, torch.nn.Parameter(tensor.to(device, dtype), requires_grad=False))
    return model.eval()


def _path_of(model: Any, module: Any) -> str:
    return next(name for name, candidate in model.named_modules() if candidate is module)


def _names_in_files(model: Any, directory: Path) -> dict[str, tuple[Path, str]]:
    """File and name of each tensor by the name that it has in the model, as transformers renames it when it loads."""
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    state, prefix = model.state_dict(), model.base_model_prefix
    return {
        rename_source_key(name, renamings, converters, prefix, state)[0]: (file, name)
        for file, name in _names(directory)
    }


def _tensor(
    directory: Path, paths: list[str], names: dict[str, tuple[Path, str]], shape: tuple[int, ...]
) -> torch.Tensor:
    """The tensor of a parameter, by the first of its paths that the files hold."""
    held = [names[path] for path in paths if path in names]
    if not held:
        raise SettingsError(
            f"teacher {directory}: expected the output matrix ({' or '.join(paths)}) in its safetensors files, found "
            "none of that name; use teacher.engine transformers, or save the model with its output matrix"
        )
    file, name = held[0]
    with safe_open(file, framework="pt") as tensors:
        tensor: torch.Tensor = tensors.get_tensor(name)
    if tuple(tensor.shape) != shape:
        raise MismatchError(
            f"teacher {directory}: {name}: expected the shape {shape} that config.json describes, found "
            f"{tuple(tensor.shape)}; if the matrix is quantised, use teacher.engine transformers"
        )
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise SettingsError(
            f"teacher {directory}: {name}: expected an output matrix in bfloat16, float16 or float32, found "
            f"{tensor.dtype}: it is quantised; use teacher.engine transformers"
        )
    return tensor


def _names(directory: Path) -> Iterator[tuple[Path, str]]:
    """Every tensor of the directory's weight files."""
    for path in safetensors_files(directory):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dictionary)
                yield path, name
