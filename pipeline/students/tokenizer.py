"""Checks that a student has the recipe's token ids, and copies the tokenizer beside the student's weights."""

import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.model_files.older_reading import older_reading, same_texts
from logitlake.pipeline.model_files.tokenizer import TOKENIZER_FILES, has_tokenizer, load_tokenizer
from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.students.config_file import write_config
from logitlake.pipeline.students.identity import Parent
from logitlake.pipeline.tokens.same_ids import first_difference
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError, SettingsError

log = logging.getLogger(__name__)


def find_tokenizer(
    student: StudentSettings,
    parent: Parent,
    teacher: TeacherFiles | None,
    recipe: Mapping[str, Any],
    *,
    chat_template: Path | None = None,
) -> Path:
    """The directory of the tokenizer that the student is saved with: its parent's, else the teacher's.

    A parent without a tokenizer, or with the same ids and no chat template, or with another BOS or EOS, gets the
    teacher's. `chat_template` is the file that replaced the tokenizer's template in the capture, if any. Raises
    MismatchError for other ids or another template than the recipe's, SettingsError if there is no tokenizer.
    """
    directory = parent.tokenizer_directory
    if directory is None and teacher is not None and has_tokenizer(teacher.directory):
        directory = teacher.directory
    if directory is None:
        raise SettingsError(
            f"student.source {student.source}: expected tokenizer.json beside the student's config, found none, and no "
            "teacher is set whose tokenizer could be used; add the tokenizer's files, or set the teacher"
        )
    trusted = student.trust_remote_code
    found = load_tokenizer(directory, chat_template=chat_template, trust_remote_code=trusted)
    if _is_of(recipe, found, directory, chat_template):
        if found.template_hash != recipe["chat"]["template"]:
            raise _other_template(directory, recipe, found)
        if directory != parent.tokenizer_directory:
            _check_beside(directory, student, parent, found)
        return directory
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
    if reference.template_hash is None and _rule(found) == _rule(reference):
        return directory
    _check_beside(teacher.directory, student, parent, reference)
    return teacher.directory


def _rule(tokenizer: TextTokenizer) -> tuple[int | None, int | None, bool]:
    """What a tokenizer adds to a text, and where `generate` stops: BOS, EOS, and whether a text begins with BOS."""
    return tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos


def _is_of(recipe: Mapping[str, Any], tokenizer: TextTokenizer, directory: Path, chat_template: Path | None) -> bool:
    """Whether a recipe names the tokenizer of these files, by today's reading or by that of an older logitlake.

    The older one must give the same ids to texts. A warning says where its rows begin or end in another way.
    """
    if tokenizer.fingerprint == recipe["tokenizer"]:
        return True
    older = older_reading(directory, chat_template=chat_template)
    if older is None or older.fingerprint != recipe["tokenizer"] or not same_texts(older, tokenizer):
        return False
    if recipe.get("bos") == "texts" and not tokenizer.adds_bos:
        log.warning(
            "tokenizer %s: texts of the recipe's rows begin with BOS (id %s), as an older logitlake read "
            "tokenizer_config.json; transformers adds none: the student learns from texts with BOS, and its saved "
            "tokenizer adds none; add BOS to prompts yourself, or capture again",
            *(directory, older.bos_id),
        )
    if recipe.get("bos") == "never" and tokenizer.adds_bos and not older.adds_bos:
        log.warning(
            "tokenizer %s: the recipe's rows have no BOS, as an older logitlake read tokenizer_config.json; "
            "transformers adds one (id %s): the student learns from texts without BOS, and its saved tokenizer adds "
            "one; leave BOS out of prompts (add_special_tokens=False), or capture again",
            *(directory, tokenizer.bos_id),
        )
    if recipe.get("eos") and older.eos_id not in (None, tokenizer.eos_id):
        log.warning(
            "tokenizer %s: texts of the recipe's rows end with id %s, as an older logitlake read "
            "tokenizer_config.json; the EOS of transformers is %s; capture again",
            *(directory, older.eos_id, tokenizer.eos_id),
        )
    return True


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
    is_its = _is_of(recipe, tokenizer, teacher.directory, chat_template)
    if is_its and tokenizer.template_hash == recipe["chat"]["template"]:
        return tokenizer, ""
    older = older_reading(teacher.directory, chat_template=chat_template)
    if not is_its and older is not None and older.fingerprint == recipe["tokenizer"]:
        difference = first_difference(older.backend, tokenizer.backend)
        return None, (
            "the rows have the ids of tokenizer.json alone, as an older logitlake read it, and transformers gives "
            + (f"others: {difference.words('the rows', 'transformers')}" if difference else "others")
            + "; capture again, as the student that is saved would be read by transformers"
        )
    return None, (
        f"the teacher that is set has another tokenizer (fingerprint {tokenizer.fingerprint}, template "
        f"{tokenizer.template_hash}; for a GGUF file set teacher.gguf_tokenizer as the capture had it, which was "
        "transformers in an older logitlake)"
    )


def _check_beside(tokenizer: Path, student: StudentSettings, parent: Parent, expected: TextTokenizer) -> None:
    """Raises MismatchError if transformers reads the teacher's tokenizer in another way beside the student's config."""
    with tempfile.TemporaryDirectory() as made:
        if not write_config(student, parent, Path(made)):
            return
        copy_tokenizer(tokenizer, Path(made))
        found = load_tokenizer(Path(made), trust_remote_code=student.trust_remote_code)
    difference = first_difference(expected.backend, found.backend)
    # What the teacher's reading has no id for may be filled in: no row has it.
    named = [before is None or before == now for before, now in zip(_rule(expected), _rule(found), strict=True)]
    if difference is None and all(named):
        return
    texts = (
        f"BOS, EOS and whether texts begin with BOS are {_rule(expected)} by the teacher and {_rule(found)} by "
        "the student"
    )
    if difference is not None:
        texts = difference.words("the teacher", "the student")
    raise MismatchError(
        f"tokenizer of the student: transformers reads the teacher's tokenizer ({tokenizer}) in another way beside "
        f"the config of {student.model or parent.directory}: {texts}; use a student of the teacher's kind of model"
    )


def _other_template(directory: Path, recipe: Mapping[str, Any], found: TextTokenizer) -> MismatchError:
    return MismatchError(
        f"chat template of the student ({directory}): expected fingerprint {recipe['chat']['template']} of the "
        f"recipe, found {found.template_hash}; set tokenization.chat_template to the file that the capture used"
    )


def copy_tokenizer(source: Path, destination: Path, *, chat_template: Path | None = None) -> None:
    """Copy the tokenizer's files, byte for byte, beside the student's weights.

    Without a tekken.json beside a tokenizer.json: with mistral-common installed, transformers would read that instead.
    """
    left_out = {"tekken.json"} if (source / "tokenizer.json").is_file() else set()
    for name in (*TOKENIZER_FILES, "chat_template.jinja"):
        if (source / name).is_file() and name not in left_out:
            shutil.copyfile(source / name, destination / name)
    if chat_template is not None:
        shutil.copyfile(chat_template, destination / "chat_template.jinja")
