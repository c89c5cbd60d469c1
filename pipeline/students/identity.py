"""The id of a student: a hash of its parent, its row set and its training settings. Needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from logitlake.pipeline.model_files.config_hash import hash_config
from logitlake.pipeline.model_files.files import TeacherFiles, check_same_teacher, refuse_foreign_code, resolve_teacher
from logitlake.pipeline.model_files.load_errors import LOAD_ERRORS
from logitlake.pipeline.model_files.tokenizer import has_tokenizer
from logitlake.pipeline.settings.models import StudentSettings, TeacherSettings
from logitlake.pipeline.settings.training import TrainingSettings
from logitlake.pipeline.students.file_hashes import difference
from logitlake.pipeline.students.work_directory import checkpoints_of
from logitlake.storage.errors import IntegrityError, SettingsError
from logitlake.storage.identity import canonical_json, digest
from logitlake.storage.row_sets.row_set import RowSet

FACTS_FILE = "logitlake.json"
# In the facts: the hashes of the student's files.
FILES = "files"

# They decide how text is generated, marked up and turned into ids, not what the student computes from ids: people may
# change them.
NOT_HASHED = ("generation_config.json", "tokenizer_config.json")

# Raise it when the same settings would train another student than before.
_METHOD = "sparse divergence 1"

# Where and how a student is trained, not what it learns.
_WHERE_AND_HOW = {
    "output",
    "device",
    "batch_tokens",
    "packing",
    "save_minutes",
    "save_steps",
    "local_copy",
    "local_copy_bytes",
}
# What chooses the rows: the row set's id stands for it.
_IN_THE_ROW_SET = {"where", "weight", "query", "recipe", "up_to_commit"}
_NOT_PART_OF_THE_STUDENT = _WHERE_AND_HOW | _IN_THE_ROW_SET
_NOT_PART_OF_THE_CONFIG = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The model that a student starts from. `parent_id` is a student's id if it is a student, else a hash of weights.

    `config_id` is a hash of what its config decides (see config_hash.py), None where `content_id` covers that, and for
    a student that an older logitlake named without it. `directory` holds the model, None if the teacher's files are not
    available; `tokenizer_directory` holds its tokenizer, None if it has none.
    """

    parent_id: str
    content_id: str
    directory: Path | None
    tokenizer_directory: Path | None
    config_id: str | None = None


def find_parent(settings: StudentSettings, recipe: Mapping[str, Any], teacher: TeacherFiles | None) -> Parent:
    """The parent in the settings.

    The id of a student cut from the teacher uses the recipe's hash of the teacher, so it needs no teacher files. Raises
    MismatchError if `teacher` is not the recipe's teacher, SettingsError if there is no such checkpoint.
    """
    if settings.source == "teacher":
        return _teacher_as_parent(recipe, teacher)
    assert settings.model is not None
    if settings.source == "config":
        return _config_as_parent(settings)
    checkpoint = TeacherSettings(
        model=settings.model, revision=settings.revision, trust_remote_code=settings.trust_remote_code
    )
    try:
        files = resolve_teacher(checkpoint)
    except SettingsError as error:
        raise SettingsError(f"student.model {settings.model}: {error}") from None
    check_student_files(files.directory)
    return Parent(
        parent_id=read_facts(files.directory).get("student_id", files.teacher_hash),
        content_id=files.teacher_hash,
        directory=files.directory,
        tokenizer_directory=files.directory if has_tokenizer(files.directory) else None,
        config_id=files.config_hash,
    )


# Settings added later: these values are left out of the hash, so that older ids stay the same.
_ADDED_LATER = {"loss": "divergence", "step_tokens": None}
_STUDENT_ADDED_LATER = {"dtype": "auto"}


def student_id(parent: Parent, row_set: RowSet, student: StudentSettings, training: TrainingSettings) -> str:
    """32 hex characters; equal for the same parent, rows and settings on any machine."""
    parent_id = parent.content_id
    if parent.config_id is not None:
        parent_id = digest(b"configured", parent_id.encode(), parent.config_id.encode())
    start = student.model_dump(mode="json", include={"source", "layers", "lora", "dtype"})
    content = training.model_dump(mode="json", exclude=_NOT_PART_OF_THE_STUDENT)
    content["batch_sequences"] = training.sequences_a_batch
    if training.step_tokens is not None:
        del content["batch_sequences"], content["gradient_accumulation"]  # they decide nothing
    return digest(
        b"student",
        _METHOD.encode(),
        parent_id.encode(),
        row_set.row_set_id.encode(),
        canonical_json(_without(start, _STUDENT_ADDED_LATER)),
        canonical_json(_without(content, _ADDED_LATER)),
    )


def as_named_before(
    parent: Parent, row_set: RowSet, student: StudentSettings, training: TrainingSettings, directory: Path
) -> Parent:
    """The parent without its config, if an older logitlake named the student of `directory` so.

    The directory holds that student, or its training was interrupted and its checkpoints lie beside the directory. It
    must have the parent's config: else it was trained from another model with the same weights.
    """
    if parent.config_id is None:
        return parent
    older = replace(parent, config_id=None)
    older_id, new_id = (student_id(each, row_set, student, training) for each in (older, parent))
    if read_facts(directory).get("student_id") == older_id:
        models = [directory]
    elif not checkpoints_of(directory, new_id) and (checkpoints := checkpoints_of(directory, older_id)):
        # The checkpoint of an adapter has no config.
        models = [path for path in checkpoints if (path / "config.json").is_file()]
    else:
        return parent
    trust = student.trust_remote_code
    try:
        same = all(hash_config(model, trust_remote_code=trust) == parent.config_id for model in models)
    except OSError:
        return parent
    return older if same else parent


def _without(content: Mapping[str, Any], added_later: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in added_later or value != added_later[key]}


def read_facts(directory: Path) -> dict[str, Any]:
    """The content of `logitlake.json`; empty if the directory holds no student."""
    try:
        facts = json.loads((directory / FACTS_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{directory / FACTS_FILE}: can't be read: {error}") from None
    return facts if isinstance(facts, dict) else {}


def check_student_files(directory: Path) -> None:
    """Compare the files of a student with their hashes; a model that says none of them is not checked.

    Reads all files: about a second for a gigabyte. Raises IntegrityError for one that was changed, cut or removed.
    """
    expected = read_facts(directory).get(FILES)
    if not isinstance(expected, dict):
        return
    deciding = {name: hashed for name, hashed in expected.items() if name not in NOT_HASHED}
    if problem := difference(directory, deciding):
        raise IntegrityError(
            f"student {directory}: {problem}; restore the directory from a backup, or move it away and train the "
            f"student again. If you changed it on purpose, remove {FACTS_FILE}: it is another model now"
        )


def _teacher_as_parent(recipe: Mapping[str, Any], teacher: TeacherFiles | None) -> Parent:
    if teacher is not None:
        check_same_teacher(teacher, recipe)
    weights, adapter, config = (recipe["teacher"].get(name) for name in ("weights", "adapter", "config"))
    if weights is None:
        raise SettingsError(
            "student.source teacher: the rows were imported, so the weights of their teacher are not known; set "
            "student.source to checkpoint or config, and student.model"
        )
    content_id = weights if adapter is None else digest(b"adapted", weights.encode(), adapter.encode())
    if config is not None:
        content_id = digest(b"configured", content_id.encode(), config.encode())
    return Parent(
        parent_id=content_id,
        content_id=content_id,
        directory=teacher.directory if teacher else None,
        tokenizer_directory=teacher.directory if teacher else None,
    )


def _config_as_parent(settings: StudentSettings) -> Parent:
    # Imported here: transformers is slow to import, and only this source needs it.
    from transformers import AutoConfig

    assert settings.model is not None
    directory = Path(settings.model).expanduser()
    if settings.trust_remote_code:
        refuse_foreign_code(directory)
    try:
        config = AutoConfig.from_pretrained(
            settings.model, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except LOAD_ERRORS as error:
        raise SettingsError(f"student.model {settings.model}: can't load a model config: {error}") from None
    content = {key: value for key, value in config.to_dict().items() if key not in _NOT_PART_OF_THE_CONFIG}
    content_id = digest(b"config", canonical_json(json.loads(json.dumps(content, default=str))))
    return Parent(
        parent_id=content_id,
        content_id=content_id,
        directory=directory,
        tokenizer_directory=directory if has_tokenizer(directory) else None,
    )
