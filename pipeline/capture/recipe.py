"""The recipe: everything that decides what is cached, and nothing else. Its hash is the `recipe_id` of every row.

Batch size, device, attention kernel, library versions and file names stay out: they change noise or speed, not what is
estimated. They are recorded with the run.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from logitlake.pipeline.settings.models import TargetSettings, TeacherSettings, TokenizationSettings
from logitlake.pipeline.targets.quantize import default_levels
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.teachers.files import TeacherFiles
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import SettingsError
from logitlake.storage.identity import recipe_id
from logitlake.storage.lake.schema import STEPS_PER_NAT

# The version of what a row means; `format_version` in the recipe. A new one gives every recipe a new id, so that the
# teacher has to run again: raise it only if the same settings give rows with another meaning. How rows are stored is
# the format version of the lake.
RECIPE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to make targets. `to_dict` is what is stored and hashed, key by key as docs/format.md explains it."""

    teacher: TeacherFiles
    engine: str
    dtype: str
    tokenizer: str
    vocabulary: int
    chat_template: str | None
    chat_targets: str
    bos: str
    eos: bool
    window: int
    overlap: int
    target: TargetSettings
    format_version: int = RECIPE_VERSION

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with no path and no setting that the sparsifier in use does not read."""
        return {
            "format_version": self.format_version,
            "teacher": {
                "name": self.teacher.name,
                "weights": self.teacher.teacher_hash,
                "adapter": self.teacher.adapter_hash,
                "engine": self.engine,
                "dtype": self.dtype,
            },
            "tokenizer": self.tokenizer,
            # Ids at and above this number have no probability: rows of the output layer past the tokenizer.
            "vocabulary": self.vocabulary,
            "chat": {"template": self.chat_template, "targets": self.chat_targets},
            "bos": self.bos,
            "eos": self.eos,
            "window": self.window,
            "overlap": self.overlap,
            "temperature": float(self.target.temperature),
            "sparsifier": _sparsifier(self.target),
            "quantiser": {"name": "systematic", "levels": default_levels(self.target)},
            "seed": self.target.seed,
            **self._logprob_steps(),
        }

    def _logprob_steps(self) -> dict[str, Any]:
        """Named only where it is not the default: recipes without keep the ids they always had."""
        steps = self.target.logprob_steps_per_nat
        return {} if steps == STEPS_PER_NAT else {"logprob_steps_per_nat": steps}

    @cached_property
    def recipe_id(self) -> str:
        """32 hex characters; equal if and only if `to_dict` is."""
        return recipe_id(self.to_dict())


def make_recipe(
    *,
    files: TeacherFiles,
    tokenizer: TextTokenizer,
    teacher: TeacherSettings,
    tokenization: TokenizationSettings,
    target: TargetSettings,
) -> Recipe:
    """The recipe of these settings; needs no torch unless the dtype is `auto` and an accelerator is in the machine.

    Raises SettingsError while `target_bytes` is set: the probe must have put a threshold in its place first.
    """
    if target.target_bytes is not None:
        raise SettingsError(
            f"target.target_bytes {target.target_bytes}: the recipe needs the value that the probe chose; "
            "run the probe first, or set target.threshold (draws, k, p) by hand"
        )
    return Recipe(
        teacher=files,
        engine=teacher.engine,
        dtype=resolve_dtype(teacher.dtype, teacher.device),
        tokenizer=tokenizer.fingerprint,
        vocabulary=tokenizer.vocab_size,
        chat_template=tokenizer.template_hash,
        chat_targets=tokenization.chat_targets,
        bos=_bos(tokenizer, tokenization),
        eos=tokenization.eos,
        window=tokenization.window,
        overlap=tokenization.overlap,
        target=target,
    )


def _bos(tokenizer: TextTokenizer, tokenization: TokenizationSettings) -> str:
    """`auto` said plainly: a tokenizer that adds BOS does so before texts, a chat's template writes its own."""
    if tokenization.bos == "auto":
        return "texts" if tokenizer.adds_bos else "never"
    return tokenization.bos


def _sparsifier(target: TargetSettings) -> dict[str, Any]:
    match target.sparsifier:
        case "varopt":
            return {"name": "varopt", "threshold": float(target.threshold)}
        case "random":
            return {"name": "random", "draws": target.draws}
        case "top_k":
            return {"name": "top_k", "k": target.k}
        case "top_p":
            return {"name": "top_p", "p": float(target.p), "max_k": target.max_k}
