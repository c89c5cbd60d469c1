"""The recipe: all settings that decide what is cached. Its hash is the `recipe_id` of every row.

Batch size, device, attention kernel, library versions and file names are not part of it: they change noise or speed,
not the target. The run records them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from logitlake.pipeline.model_files.files import ComputedBy, TeacherFiles
from logitlake.pipeline.model_files.positions import check_window
from logitlake.pipeline.settings.models import TargetSettings, TeacherSettings, TokenizationSettings
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.teachers.engine import Gives
from logitlake.pipeline.teachers.registry import check_engine
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import SettingsError
from logitlake.storage.identity import FACTS, recipe_id
from logitlake.storage.schema.sequences import STEPS_PER_NAT

# The version of what a row means; `format_version` in the recipe. A new one gives every recipe a new id, so that the
# teacher has to run again: raise it only if the same settings give rows with another meaning. How rows are stored is
# the format version of the lake.
RECIPE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to make targets. The lake stores `to_dict`; docs/format.md explains its keys."""

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
    teacher_gives: Gives = "distribution"
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = RECIPE_VERSION

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with no setting that the sparsifier in use does not read, and no path but the teacher's origin.

        `facts` are not hashed: they describe the targets without the sparsifier's code, and say where the teacher
        comes from.
        """
        return {
            "format_version": self.format_version,
            "teacher": {
                "name": self.teacher.name,
                "weights": self.teacher.teacher_hash,
                **self._served_as(),
                "adapter": self.teacher.adapter_hash,
                **self._teacher_config(),
                "engine": self.engine,
                "dtype": self.dtype,
                **({"options": dict(self.engine_options)} if self.engine_options else {}),
            },
            "tokenizer": self.tokenizer,
            # The tokenizer has no ids from this number on.
            "vocabulary": self.vocabulary,
            "chat": {"template": self.chat_template, "targets": self.chat_targets},
            "bos": self.bos,
            "eos": self.eos,
            "window": self.window,
            "overlap": self.overlap,
            "temperature": float(self.target.temperature),
            "sparsifier": self.target.recipe_part(),
            "quantiser": {"name": "systematic", "levels": self.target.levels_in_use},
            "seed": self.target.seed,
            FACTS: {**asdict(self.target.facts), "teacher_gives": self.teacher_gives, **self._origin()},
            **self._logprob_steps(),
        }

    def _origin(self) -> dict[str, Any]:
        return {} if self.teacher.origin is None else {"teacher": self.teacher.origin.to_dict()}

    def _served_as(self) -> dict[str, Any]:
        """A teacher whose weights only a server has: `weights` is then the hash of this name."""
        return {} if self.teacher.served_as is None else {"served_as": self.teacher.served_as}

    def _teacher_config(self) -> dict[str, Any]:
        """Recipes of an older logitlake have none, and keep their ids."""
        return {} if self.teacher.config_hash is None else {"config": self.teacher.config_hash}

    def _logprob_steps(self) -> dict[str, Any]:
        """Named only where it is not the default: recipes without keep the ids they always had."""
        steps = self.target.logprob_steps_per_nat
        return {} if steps == STEPS_PER_NAT else {"logprob_steps_per_nat": steps}

    @cached_property
    def recipe_id(self) -> str:
        """32 hex characters; equal if and only if `to_dict` is, but for its facts."""
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

    Raises SettingsError while `target_bytes` is set (the probe must have chosen a value in its place first), for
    windows longer than the teacher's positions, and for targets that the engine does not give enough for.
    """
    check_window(files.directory, tokenization.window, "the teacher")
    if target.target_bytes is not None:
        raise SettingsError(
            f"target.target_bytes {target.target_bytes}: the recipe needs the value that the probe chooses for "
            f"target.{target.size_knob.setting}; run the probe first, or set target.{target.size_knob.setting} yourself"
        )
    kind = check_engine(teacher, target)
    # A recording gives the numbers of another engine, bit for bit: the recipe is that engine's.
    computed_by = files.computed_by or ComputedBy(
        engine=teacher.engine, dtype=_dtype(teacher), options=kind.options(teacher)
    )
    return Recipe(
        teacher=files,
        engine=computed_by.engine,
        dtype=computed_by.dtype,
        tokenizer=tokenizer.fingerprint,
        vocabulary=tokenizer.vocab_size,
        chat_template=tokenizer.template_hash,
        chat_targets=tokenization.chat_targets,
        bos=_bos(tokenizer, tokenization),
        eos=tokenization.eos,
        window=tokenization.window,
        overlap=tokenization.overlap,
        target=target,
        teacher_gives=kind.gives,
        engine_options=computed_by.options,
    )


# The dtype of a teacher that a server runs, unless the settings name it: the server does not say.
DTYPE_OF_THE_SERVER = "as served"


def _dtype(teacher: TeacherSettings) -> str:
    if teacher.is_served and teacher.dtype == "auto":
        return DTYPE_OF_THE_SERVER
    return resolve_dtype(teacher.dtype, teacher.device)


def _bos(tokenizer: TextTokenizer, tokenization: TokenizationSettings) -> str:
    """Resolve `auto`: `texts` if the tokenizer adds BOS; in a chat the template writes it."""
    if tokenization.bos == "auto":
        return "texts" if tokenizer.adds_bos else "never"
    return tokenization.bos
