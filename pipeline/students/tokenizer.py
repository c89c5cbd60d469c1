"""Checks that a student has the recipe's token ids, and copies the tokenizer beside the student's weights."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.students.identity import Parent
from logitlake.pipeline.teachers.files import TeacherFiles
from logitlake.pipeline.teachers.tokenizer import TOKENIZER_FILES, has_tokenizer, load_tokenizer
from logitlake.pipeline.tokens.same_ids import first_difference
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError, SettingsError


def find_tokenizer(
    student: StudentSettings,
    parent: Parent,
    teacher: TeacherFiles | None,
    recipe: Mapping[str, Any],
    *,
    chat_template: Path | None = None,
) -> Path:
    """The directory of the tokenizer that the student is saved with: its parent's, else the teacher's.

    A parent without a tokenizer, or with the same ids and no chat template, gets the teacher's. `chat_template` is the
    file that replaced the tokenizer's template in the capture, if any. Raises MismatchError for other ids or another
    template than the recipe's, SettingsError if there is no tokenizer.
    """
    directory = parent.tokenizer_directory
    if directory is None and teacher is not None and has_tokenizer(teacher.directory):
        directory = teacher.directory
    if directory is None:
        raise SettingsError(
            f"student.source {student.source}: expected tokenizer.json beside the student's config, found none, and no "
            "teacher is set whose tokenizer could be used; add the tokenizer's files, or set the teacher"
        )
    found = load_tokenizer(directory, chat_template=chat_template, trust_remote_code=student.trust_remote_code)
    expected = (recipe["tokenizer"], recipe["chat"]["template"])
    if (found.fingerprint, found.template_hash) == expected:
        if directory != parent.tokenizer_directory:
            _check_beside(directory, parent, found)
        return directory
    if found.fingerprint == recipe["tokenizer"]:
        raise _other_template(directory, recipe, found)
    reference, why_not = _of_recipe(teacher, recipe, chat_template)
    if reference is None or teacher is None:
        raise MismatchError(
            f"tokenizer of the student ({directory}): expected fingerprint {recipe['tokenizer']} of the recipe, found "
            f"{found.fingerprint}; whether the ids are the same can't be compared, because {why_not}; set the teacher "
            "that made the cache"
        )
    if (difference := first_difference(reference.backend, found.backend, second_may_add=True)) is not None:
        raise MismatchError(
            f"tokenizer of the student ({directory}): expected the ids of the recipe's tokenizer, found that "
            f"{difference.words('the recipe', 'the student')}; start from a student with the teacher's tokenizer, or "
            "capture with this one"
        )
    if found.template_hash is not None and reference.template_hash not in (None, found.template_hash):
        raise _other_template(directory, recipe, found)
    if reference.template_hash is None:
        return directory
    _check_beside(teacher.directory, parent, reference)
    return teacher.directory


def _of_recipe(
    teacher: TeacherFiles | None, recipe: Mapping[str, Any], chat_template: Path | None
) -> tuple[TextTokenizer | None, str]:
    """The recipe's own tokenizer, from the teacher's files; else None and the reason."""
    if teacher is None:
        return None, "the teacher's files are not at hand"
    try:
        tokenizer = load_tokenizer(teacher.directory, chat_template=chat_template)
    except SettingsError as error:
        return None, f"the teacher's tokenizer can't be read ({error})"
    if (tokenizer.fingerprint, tokenizer.template_hash) != (recipe["tokenizer"], recipe["chat"]["template"]):
        return None, (
            f"the teacher that is set has another tokenizer (fingerprint {tokenizer.fingerprint}, template "
            f"{tokenizer.template_hash}; for a GGUF file set teacher.gguf_tokenizer as the capture had it, which was "
            "transformers in an older logitlake)"
        )
    return tokenizer, ""


def _check_beside(tokenizer: Path, parent: Parent, expected: TextTokenizer) -> None:
    """Raises MismatchError if transformers reads the teacher's tokenizer in another way beside the student's config."""
    config = None if parent.directory is None else parent.directory / "config.json"
    if config is None or not config.is_file():
        return
    with tempfile.TemporaryDirectory() as made:
        copy_tokenizer(tokenizer, Path(made))
        shutil.copyfile(config, Path(made) / "config.json")
        found = load_tokenizer(Path(made))
    if (difference := first_difference(expected.backend, found.backend)) is not None:
        raise MismatchError(
            f"tokenizer of the student: transformers reads the teacher's tokenizer ({tokenizer}) in another way beside "
            f"{config}: {difference.words('the teacher', 'the student')}; use a student of the teacher's kind of model"
        )


def _other_template(directory: Path, recipe: Mapping[str, Any], found: TextTokenizer) -> MismatchError:
    return MismatchError(
        f"chat template of the student ({directory}): expected fingerprint {recipe['chat']['template']} of the "
        f"recipe, found {found.template_hash}; set tokenization.chat_template to the file that the capture used"
    )


def copy_tokenizer(source: Path, destination: Path, *, chat_template: Path | None = None) -> None:
    """Copy the tokenizer's files, byte for byte, beside the student's weights."""
    for name in (*TOKENIZER_FILES, "chat_template.jinja"):
        if (source / name).is_file():
            shutil.copyfile(source / name, destination / name)
    if chat_template is not None:
        shutil.copyfile(chat_template, destination / "chat_template.jinja")
