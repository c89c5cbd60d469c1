"""A student is accepted by the ids that its tokenizer gives, and refused with the first text that has others."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.model_files.tokenizer import load_tokenizer
from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.students.identity import Parent, find_parent
from logitlake.pipeline.students.preflight import check_training
from logitlake.pipeline.students.tokenizer import copy_tokenizer, find_tokenizer
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError, SettingsError

TEMPLATE = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def teacher(tokenizer_dir: Path, tmp_path: Path) -> TeacherFiles:
    """A teacher with a chat template."""
    directory = Path(shutil.copytree(tokenizer_dir, tmp_path / "teacher"))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return TeacherFiles(directory=directory, teacher_hash="w" * 32, name="tiny")


@pytest.fixture
def recipe(teacher: TeacherFiles) -> dict[str, Any]:
    tokenizer = load_tokenizer(teacher.directory)
    return {"tokenizer": tokenizer.fingerprint, "chat": {"template": tokenizer.template_hash}}


@pytest.fixture
def student(teacher: TeacherFiles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(teacher.directory, tmp_path / "student"))


def find(student: Path | None, teacher: TeacherFiles | None, recipe: dict[str, Any]) -> Path:
    parent = Parent(parent_id="p", content_id="p", directory=student, tokenizer_directory=student)
    return find_tokenizer(StudentSettings(source="checkpoint", model="student"), parent, teacher, recipe)


def change_backend(student: Path, name: str) -> None:
    path = student / "tokenizer.json"
    backend = Tokenizer.from_str(path.read_text())
    if name == "pad token":
        backend.add_special_tokens(["<|pad|>"])
        config = json.loads((student / "tokenizer_config.json").read_text())
        (student / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "<|pad|>"}))
    elif name == "prefix space":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif name == "another token":
        content = json.loads(backend.to_str())
        vocabulary = content["model"]["vocab"]
        vocabulary["Ġcat"], vocabulary["Ġmat"] = vocabulary["Ġmat"], vocabulary["Ġcat"]
        backend = Tokenizer.from_str(json.dumps(content))
    path.write_text(backend.to_str())


def test_the_same_files_are_the_students_own(student: Path, teacher: TeacherFiles, recipe: dict[str, Any]) -> None:
    assert find(student, None, recipe) == student
    assert find(student, teacher, recipe) == student


def test_a_base_model_without_a_template_is_saved_with_the_teachers_tokenizer(
    student: Path, teacher: TeacherFiles, recipe: dict[str, Any]
) -> None:
    (student / "chat_template.jinja").unlink()
    assert find(student, teacher, recipe) == teacher.directory


def test_one_more_padding_token_is_accepted(student: Path, teacher: TeacherFiles, recipe: dict[str, Any]) -> None:
    change_backend(student, "pad token")
    assert find(student, teacher, recipe) == teacher.directory


@pytest.mark.parametrize("name", ["prefix space", "another token"])
def test_other_ids_are_refused_with_the_first_text(
    student: Path, teacher: TeacherFiles, recipe: dict[str, Any], name: str
) -> None:
    change_backend(student, name)
    with pytest.raises(MismatchError, match=r"the text '.*' has .*ids \[.*\] by the recipe and \[.*\] by the student"):
        find(student, teacher, recipe)


def test_a_token_of_the_teacher_that_the_student_lacks_is_refused(
    student: Path, teacher: TeacherFiles, recipe: dict[str, Any]
) -> None:
    change_backend(teacher.directory, "pad token")
    tokenizer = load_tokenizer(teacher.directory)
    recipe = {**recipe, "tokenizer": tokenizer.fingerprint}
    with pytest.raises(MismatchError, match=r"<\|pad\|>"):
        find(student, teacher, recipe)


def test_another_template_is_refused(student: Path, teacher: TeacherFiles, recipe: dict[str, Any]) -> None:
    (student / "chat_template.jinja").write_text("another")
    with pytest.raises(MismatchError, match=r"chat template of the student.*tokenization\.chat_template"):
        find(student, teacher, recipe)


def test_a_recipe_without_a_template_takes_any(student: Path, teacher: TeacherFiles) -> None:
    (teacher.directory / "chat_template.jinja").unlink()
    recipe = {"tokenizer": load_tokenizer(teacher.directory).fingerprint, "chat": {"template": None}}
    assert find(student, teacher, recipe) == student


def test_without_the_teacher_the_message_says_why_nothing_was_compared(
    student: Path, teacher: TeacherFiles, recipe: dict[str, Any]
) -> None:
    (student / "chat_template.jinja").unlink()
    with pytest.raises(MismatchError, match="can't be compared, because the teacher's files are not at hand"):
        find(student, None, recipe)
    with pytest.raises(MismatchError, match=r"teacher that is set has another tokenizer.*gguf_tokenizer"):
        find(student, teacher, {**recipe, "tokenizer": "f" * 32})


def test_a_checkpoint_without_a_tokenizer_gets_the_teachers(teacher: TeacherFiles, recipe: dict[str, Any]) -> None:
    assert find(None, teacher, recipe) == teacher.directory
    with pytest.raises(SettingsError, match="no teacher is set"):
        find(None, None, recipe)


def test_a_kind_of_model_for_which_transformers_changes_the_tokenizer_is_refused(
    teacher: TeacherFiles, recipe: dict[str, Any], tmp_path: Path
) -> None:
    """The class of Qwen2 has a rule of its own that cuts digits, whatever tokenizer.json says."""
    student = tmp_path / "student"
    student.mkdir()
    parent = Parent(parent_id="p", content_id="p", directory=student, tokenizer_directory=None)
    settings = StudentSettings(source="config", model="student")
    for kind in ("llama", "qwen2"):
        (student / "config.json").write_text(json.dumps({"model_type": kind}))
        if kind == "llama":
            assert find_tokenizer(settings, parent, teacher, recipe) == teacher.directory
        else:
            with pytest.raises(MismatchError, match=r"by the teacher and .* by the student; use a student of the"):
                find_tokenizer(settings, parent, teacher, recipe)


def test_other_ids_are_found_before_anything_is_trained(
    student: Path, teacher: TeacherFiles, recipe: dict[str, Any], tmp_path: Path
) -> None:
    change_backend(student, "prefix space")
    parent = Parent(parent_id="p", content_id="p", directory=student, tokenizer_directory=student)
    settings = StudentSettings(source="checkpoint", model=str(student))
    with pytest.raises(MismatchError, match="by the recipe and"):
        check_training(settings, teacher, parent, recipe, output=tmp_path / "out", student_id="s")


BOS_BEFORE_TEXTS = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"]}},
}


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer.json", {"post_processor": BOS_BEFORE_TEXTS}),
        ("tokenizer_config.json", {"eos_token": "<|begin|>"}),
        ("tokenizer_config.json", {"bos_token": "<|end|>"}),
    ],
)
def test_a_student_with_another_rule_for_bos_or_eos_gets_the_teachers_tokenizer(
    student: Path, teacher: TeacherFiles, file: str, changes: dict[str, Any]
) -> None:
    for directory in (student, teacher.directory):
        (directory / "chat_template.jinja").unlink()
    tokenizer = load_tokenizer(teacher.directory)
    recipe = {"tokenizer": tokenizer.fingerprint, "chat": {"template": None}}
    assert find(student, teacher, recipe) == student
    content = json.loads((student / file).read_text())
    (student / file).write_text(json.dumps({**content, **changes}))
    directory = find(student, teacher, recipe)
    assert directory == teacher.directory
    saved = AutoTokenizer.from_pretrained(directory)
    assert saved("the").input_ids == tokenizer.encode_texts(["the"])[0]
    assert (saved.bos_token_id, saved.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of `owner/name` as a hub's client keeps them."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / ("a1" * 20)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a1" * 20)
    return snapshot


def test_a_window_beyond_the_positions_of_a_config_of_the_hub_is_refused(
    teacher: TeacherFiles, recipe: dict[str, Any], snapshot: Path, tmp_path: Path
) -> None:
    (snapshot / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 64}))
    settings = StudentSettings(source="config", model="owner/name")
    parent = find_parent(settings, recipe, teacher)
    recipe |= {"vocabulary": 211, "window": 64}
    check_training(settings, teacher, parent, recipe, output=tmp_path / "out", student_id="s")
    recipe["window"] = 65
    with pytest.raises(SettingsError, match="the student owner/name was made for 64 positions"):
        check_training(settings, teacher, parent, recipe, output=tmp_path / "out", student_id="s")


def test_a_config_of_the_hub_is_read_beside_the_tokenizer_too(
    teacher: TeacherFiles, recipe: dict[str, Any], snapshot: Path
) -> None:
    settings = StudentSettings(source="config", model="owner/name")
    for kind in ("llama", "qwen2"):
        (snapshot / "config.json").write_text(json.dumps({"model_type": kind}))
        parent = find_parent(settings, recipe, teacher)
        assert parent.directory is not None and not parent.directory.is_dir()
        if kind == "llama":
            assert find_tokenizer(settings, parent, teacher, recipe) == teacher.directory
        else:
            with pytest.raises(MismatchError, match=r"owner/name: the text .* by the teacher and .* by the student"):
                find_tokenizer(settings, parent, teacher, recipe)


def test_rows_of_tokenizer_json_alone_are_refused_where_transformers_gives_others(
    teacher: TeacherFiles, student: Path
) -> None:
    """An older logitlake made such rows for a class with rules of its own, by which a saved student would be read."""
    (teacher.directory / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    (student / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    older = TextTokenizer.load(teacher.directory)
    recipe = {"tokenizer": older.fingerprint, "chat": {"template": older.template_hash}}
    with pytest.raises(MismatchError, match=r"ids of tokenizer\.json alone.* by the rows and .* by transformers"):
        find(student, teacher, recipe)


def test_a_tekken_file_beside_a_tokenizer_json_is_not_copied(student: Path, tmp_path: Path) -> None:
    (student / "tekken.json").write_text("{}")
    for name, copied in (("tokenizer.json", False), ("", True)):
        destination = tmp_path / f"copy {copied}"
        destination.mkdir()
        if not name:
            (student / "tokenizer.json").unlink()
        copy_tokenizer(student, destination)
        assert (destination / "tekken.json").exists() == copied
