"""Writes a trained model in the dtype of a student, and makes sure that what is read again is what was trained.

The check is plain transformers on the files: the same logits as the trained model in memory, first in float32, where
only rounding may differ, then in the dtype that is saved.
"""

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from logitlake.pipeline.model_files.load_errors import LOAD_ERRORS
from logitlake.pipeline.model_files.loading import load_adapter, load_causal_lm
from logitlake.pipeline.saving.probe import NEAR, ROUNDED, SAME, mean_divergence, probe_on
from logitlake.pipeline.tokens.same_ids import first_difference
from logitlake.storage.errors import MismatchError, SettingsError

log = logging.getLogger(__name__)

# Spaces, cases, digits, accents, a script without spaces, an emoji, and line ends: where tokenizers differ.
_TEXT = "  The cat's 1,234 hats — naïve café\n\n\tdef f(x):\r\n 日本語 🙂 <b>&amp;</b> "

_ROUNDING = (
    "so small a difference comes from rounding, or from a small constant in config.json: switch off what makes float32 "
    "less exact (NVIDIA_TF32_OVERRIDE=0) or not repeatable, and start the training again, which goes on from its last "
    "checkpoint"
)
_SHARED = "leave modules that share weights out of student.lora.target_modules"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained student in memory, by its logits [P, V] on `sequences` (see probe.py) and its weights.

    `weights` by their names in the model that is saved; None if no process has them all. `limit`: the mean KL in nats
    up to which a model in float32 is the same; larger where the trained model itself computes in 16 bits.
    """

    name: str
    sequences: Sequence[torch.Tensor]
    logits: torch.Tensor
    device: torch.device
    weights: Mapping[str, torch.Tensor] | None = None
    trust_remote_code: bool = False
    limit: float = SAME


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """The dtype of the saved weights, and the mean KL in nats from the trained model to the saved one."""

    dtype: str
    rounding_kl: float


def write_in_dtype(
    full: Path, directory: Path, trained: Trained, *, dtype: torch.dtype, or_float32: bool = True
) -> SavedModel:
    """Make `directory` from `full`, which holds the model in float32 and is gone afterwards.

    `or_float32`: keep float32 if rounding would change the student by more than ROUNDED. Raises MismatchError if a
    model that is read again is another one than was trained.
    """
    model = _load(full, trained, torch.float32)
    _check_weights(trained, model)
    divergence = _check_logits(trained, model)
    if dtype == torch.float32:
        full.rename(directory)
        return SavedModel(dtype="float32", rounding_kl=divergence)
    _load(full, trained, dtype).save_pretrained(directory)
    _fill_from(directory, model, trained, dtype)
    rounding, _ = _divergence(trained, model)
    if not rounding <= ROUNDED and _refused(trained, dtype, rounding, or_float32):
        shutil.rmtree(directory)
        full.rename(directory)
        return SavedModel(dtype="float32", rounding_kl=divergence)
    shutil.rmtree(full)
    return SavedModel(dtype=_name(dtype), rounding_kl=rounding)


@torch.no_grad()
def _fill_from(directory: Path, model: Any, trained: Trained, dtype: torch.dtype) -> None:
    """Read the rounded model again, and copy its weights into `model`, in float32, one at a time.

    A model in 16 bits rounds its constants too, so logits are compared in float32. Raises MismatchError if it has other
    weights than the trained ones, rounded, or another config than `model`.
    """
    again = _load(directory, trained, "auto")
    if again.dtype != dtype:
        raise MismatchError(f"student {trained.name}: expected {dtype} read again, found {again.dtype}")
    _check_weights(trained, again)
    before, after = (_without_dtype(each.config.to_dict()) for each in (model, again))
    rounded, weights = again.state_dict(), model.state_dict()
    changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    changed += sorted(rounded.keys() ^ weights.keys())
    if changed:
        raise MismatchError(
            f"student {trained.name}: saved in {_name(dtype)} and read again, it differs from itself in float32 in "
            f"{changed[0]}; nothing is registered; set student.dtype float32"
        )
    for name, tensor in weights.items():
        tensor.copy_(rounded[name])


def _without_dtype(content: Any) -> Any:
    """A config without what says in which dtype, by which version and where it was saved."""
    if not isinstance(content, Mapping):
        return content
    apart = ("dtype", "torch_dtype", "transformers_version", "_name_or_path")
    return {key: _without_dtype(value) for key, value in content.items() if key not in apart}


def _refused(trained: Trained, dtype: torch.dtype, rounding: float, or_float32: bool) -> bool:
    """Whether float32 is saved in place of a dtype that changes a student too much; a warning says how much."""
    log.warning(
        "student %s: rounding its weights to %s changes it by a mean KL of %.3g nats%s",
        *(trained.name, _name(dtype), rounding, ", so it is saved in float32" if or_float32 else ""),
    )
    if not or_float32 and not math.isfinite(rounding):
        raise SettingsError(
            f"student.dtype {_name(dtype)}: student {trained.name} has weights or logits that are not finite in it; "
            "nothing is registered; set student.dtype float32 or bfloat16"
        )
    return or_float32


def check_adapter(base: Path, adapter: Path, trained: Trained) -> None:
    """Raises MismatchError if PEFT makes another model than was trained of the parent's files and a saved adapter."""
    try:
        model = load_causal_lm(base, "student", dtype=torch.float32, trust_remote_code=trained.trust_remote_code)
        adapted = load_adapter(model, adapter, "adapter of the student")
    except SettingsError as error:
        raise MismatchError(f"student {trained.name}: its adapter can't be read again: {error}") from None
    divergence, limit = _divergence(trained, adapted, inner=adapted.get_base_model())
    if not divergence <= limit:
        raise MismatchError(
            f"student {trained.name}: {base} with the saved adapter gives other logits than the trained model: "
            f"expected a mean KL of at most {limit:g} nats, found {divergence:.3g}; nothing is registered; "
            + (
                _ROUNDING
                if divergence <= NEAR
                else "leave modules that share weights out of student.lora.target_modules"
            )
        )


def check_merged(trained: Trained, logits: torch.Tensor) -> None:
    """Raises MismatchError if a model computes other logits [P, V] after its adapter was merged into it."""
    divergence, limit = mean_divergence(trained.logits, logits), max(trained.limit, NEAR)
    if not divergence <= limit:
        raise MismatchError(
            f"student {trained.name}: with its adapter merged it gives other logits than the trained model: expected a "
            f"mean KL of at most {limit:g} nats, found {divergence:.3g}; nothing is registered; {_SHARED}"
        )


def check_tokenizer_again(source: Path, directory: Path, name: str, *, trust_remote_code: bool = False) -> None:
    """Raises MismatchError if plain transformers reads another tokenizer from a student than from its source."""
    try:
        # Its tokenizer.json counts, also where it has a tekken.json and mistral-common is installed.
        expected = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code, mistral_format=False)
    except LOAD_ERRORS:
        return  # The recipe's tokenizer needs tokenizer.json alone.
    try:
        found = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except LOAD_ERRORS as error:
        raise MismatchError(f"student {name}: transformers can't read its tokenizer again: {error}") from None
    text = _TEXT + "".join(expected.all_special_tokens)
    before, after = (list(tokenizer(text).input_ids) for tokenizer in (expected, found))
    if before != after:
        raise _other_ids(name, source, f"expected {before[:8]}…, found {after[:8]}…")
    first, second = (getattr(tokenizer, "backend_tokenizer", None) for tokenizer in (expected, found))
    if isinstance(first, Tokenizer) and isinstance(second, Tokenizer):
        difference = first_difference(first, second)
        if difference is not None:
            raise _other_ids(name, source, difference.words("its source", "the student"))


def _other_ids(name: str, source: Path, what: str) -> MismatchError:
    return MismatchError(
        f"student {name}: its tokenizer gives other ids when transformers reads it again than that of {source}: "
        f"{what}; nothing is registered; check tokenizer_config.json there"
    )


def make_readable(directory: Path) -> None:
    """Give all files the mode of new ones: safetensors writes some that only their owner may read."""
    fresh_file, fresh_folder = directory / ".mode", directory / ".modes"
    fresh_file.touch()
    fresh_folder.mkdir()
    file_mode, folder_mode = fresh_file.stat().st_mode, fresh_folder.stat().st_mode
    fresh_file.unlink()
    fresh_folder.rmdir()
    for path in [directory, *directory.rglob("*")]:
        path.chmod(folder_mode if path.is_dir() else file_mode)


def _load(directory: Path, trained: Trained, dtype: Any) -> Any:
    try:
        model = load_causal_lm(directory, "student", dtype=dtype, trust_remote_code=trained.trust_remote_code)
    except SettingsError as error:
        raise MismatchError(
            f"student {trained.name}: can't be read again after saving, nothing is registered: {error}"
        ) from None
    return model.eval()


def _check_weights(trained: Trained, model: Any) -> None:
    """Raises MismatchError if a weight of a model that was read again is not the trained one, rounded to its dtype."""
    for name, tensor in model.state_dict().items():
        before = None if trained.weights is None else trained.weights.get(name)
        if before is not None and (difference := _largest_difference(before.to(tensor.device, tensor.dtype), tensor)):
            raise MismatchError(
                f"student {trained.name}: read again by plain transformers ({type(model).__name__}), its weight {name} "
                f"differs by up to {difference:.3g} from the trained one, expected 0; nothing is registered; "
                "transformers changes this weight when it loads a model of this type: use another type"
            )


def _check_logits(trained: Trained, model: Any) -> float:
    """The mean KL in nats of a model in float32 that was read again; raises MismatchError above the limit."""
    divergence, limit = _divergence(trained, model)
    if not divergence <= limit:
        if trained.weights is None:
            cause = "its weights or its config.json describe another function than was trained"
        elif divergence <= NEAR:
            cause = f"its weights are equal; {_ROUNDING}"
        else:
            cause = "its weights are equal, so its config.json describes another function than was trained"
        advice = "" if divergence <= NEAR else ": make the student yourself and use student.source checkpoint"
        raise MismatchError(
            f"student {trained.name}: read again by plain transformers ({type(model).__name__}), its logits differ "
            f"from those of the trained model by a mean KL of {divergence:.3g} nats, expected at most {limit:g}; "
            f"nothing is registered; {cause}{advice}"
        )
    return divergence


def _divergence(trained: Trained, model: Any, *, inner: Any = None) -> tuple[float, float]:
    """The mean KL in nats from the trained model to another one, and the limit up to which the two are the same."""
    found, on_device = probe_on(trained.device, model, trained.sequences, inner=inner)
    if on_device:
        return mean_divergence(trained.logits, found), trained.limit
    # Of the first sequence alone.
    return mean_divergence(trained.logits[: len(found)], found), max(trained.limit, NEAR)


def _largest_difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    """0 for equal tensors, NaN in both included; infinite for other shapes or values that are not finite in one."""
    if expected.shape != found.shape:
        return float("inf")
    if torch.equal(expected, found):
        return 0.0  # without the copies below
    other = (expected != found) & ~(expected.isnan() & found.isnan())
    if not bool(other.any()):
        return 0.0
    difference = float((expected[other].double() - found[other].double()).abs().max())
    return difference if math.isfinite(difference) else float("inf")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
