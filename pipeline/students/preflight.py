"""What would stop a training and costs nothing to find out: checked before a server or torch is started."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.model_files.fingerprints import tensor_shapes
from logitlake.pipeline.model_files.positions import check_window
from logitlake.pipeline.settings.models import LoraSettings, StudentSettings
from logitlake.pipeline.students.config_file import write_config
from logitlake.pipeline.students.identity import Parent, read_facts
from logitlake.pipeline.students.tokenizer import find_tokenizer
from logitlake.storage.errors import MismatchError, SettingsError

# Names of the input embedding in checkpoints. A tied output layer has no tensor of its own.
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "lm_head.weight")
_NAMED_MODULES = 20


def check_training(
    student: StudentSettings,
    teacher: TeacherFiles | None,
    parent: Parent,
    recipe: Mapping[str, Any],
    *,
    output: Path,
    student_id: str,
    chat_template: Path | None = None,
) -> None:
    """Raises SettingsError or MismatchError for a student that can't be made or saved, as its files alone show.

    They show the tokenizer, layers, positions, rows of the embedding and names of the modules.
    """
    try:
        str(output).encode()
    except UnicodeEncodeError:
        raise SettingsError(
            f"training.output {str(output)!r}: found bytes that are not UTF-8, which safetensors can't write to; "
            "choose another path"
        ) from None
    if student.source == "teacher" and teacher is not None and not teacher.has_weights:
        where = f"only the server of {teacher.served_as} has" if teacher.served_as else "are not there"
        raise SettingsError(
            f"student.source teacher: the student is cut from the teacher's weights, which {where}; set teacher.model "
            "to a directory with the weights, or start from a checkpoint (student.source checkpoint)"
        )
    existing_facts(output, student_id)
    _check_can_be_written(output)
    if student.source == "teacher" and student.layers is not None and teacher is not None:
        total = _layers_of(teacher.directory)
        if total is not None:
            check_layers(total, student.layers)
    if parent.directory is None:
        return
    find_tokenizer(student, parent, teacher, recipe, chat_template=chat_template)
    with tempfile.TemporaryDirectory() as made:
        if write_config(student, parent, Path(made)):
            check_window(Path(made), recipe["window"], "the student", named=student.model or str(parent.directory))
    shapes = tensor_shapes(parent.directory) if student.source != "config" else {}
    _check_vocabulary(parent.directory, shapes, recipe["vocabulary"])
    if student.lora is not None:
        _check_target_modules(student.lora, shapes)


def _check_can_be_written(output: Path) -> None:
    """Raises SettingsError if the directory of the student can't be made, or nothing can be written to it."""
    above = output
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise SettingsError(
            f"training.output {output}: expected a directory that can be made and written, found that {above} is "
            f"{'read-only for this user' if above.is_dir() else 'not a directory'}; set another directory"
        )


def _check_vocabulary(directory: Path, shapes: Mapping[str, tuple[int, ...]], vocabulary: int) -> None:
    """Raises MismatchError if the input embedding has fewer rows than the recipe's vocabulary has ids."""
    rows = [shape[0] for name, shape in shapes.items() if name.endswith(_EMBEDDINGS) and len(shape) == 2]
    if rows and max(rows) < vocabulary:
        raise MismatchError(
            f"student {directory}: expected an output layer of at least {vocabulary} rows, one per id of the recipe's "
            f"tokenizer, found {max(rows)}; use a student with a larger vocabulary"
        )


def _check_target_modules(lora: LoraSettings, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises SettingsError if no module that has a tensor in the files bears the name of a target module.

    PEFT compares names by their ends. Some models fuse or split modules as they are loaded: one name that fits is
    enough here, and PEFT checks the rest.
    """
    modules = [name.rpartition(".")[0] for name in shapes]
    targets = lora.target_modules
    if isinstance(targets, str) or not modules:
        return
    if not any(module == target or module.endswith(f".{target}") for target in targets for module in modules):
        last = sorted({module.rpartition(".")[2] for module in modules})
        raise SettingsError(
            f"student.lora.target_modules: expected names of modules of the student, found {', '.join(targets)}, and "
            f"none fits; its modules are {', '.join(last[:_NAMED_MODULES])}"
        )


def existing_facts(output: Path, student_id: str) -> dict[str, Any] | None:
    """Facts of the student if `output` holds it, None if `output` is missing or empty; else raises SettingsError."""
    facts = read_facts(output)
    if facts.get("student_id") == student_id:
        return facts
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        content = f"student {facts['student_id'][:12]}" if "student_id" in facts else "files that are not a student"
        raise SettingsError(
            f"training.output {output}: expected an empty directory for student {student_id[:12]}, found {content}; "
            "set another directory, or move that one away"
        )
    return None


def check_layers(total: int, n_layers: int) -> None:
    """Raises SettingsError if `n_layers` can't be cut from `total`."""
    if not 1 <= n_layers <= total:
        raise SettingsError(f"student.layers: expected 1 to {total}, the teacher's layers, found {n_layers}")


def _layers_of(directory: Path) -> int | None:
    """The number of layers in a config; None where it is written in another way."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        total = config.get("text_config", config).get("num_hidden_layers")
    except (OSError, ValueError, AttributeError):
        return None
    return total if isinstance(total, int) else None
