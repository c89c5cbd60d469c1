import dataclasses
import json
import os
import shutil
import subprocess
import sys
import warnings
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, TrainerCallback

from logitlake.pipeline.evaluation.evaluate import load_student
from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.reading.batches import make_batch
from logitlake.pipeline.reading.reader import RowSetReader
from logitlake.pipeline.settings.models import LoraSettings, StudentSettings
from logitlake.pipeline.settings.training import TrainingSettings
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.pipeline.training import distillation_trainer, save_student
from logitlake.pipeline.training import train_student as train_student_module
from logitlake.pipeline.training.checkpoints import MANIFEST, READER_STATE, complete_checkpoint, last_checkpoint
from logitlake.pipeline.training.distillation_trainer import DistillationTrainer
from logitlake.pipeline.training.model_loss import LossSettings, model_loss
from logitlake.pipeline.training.output_layer import take_apart
from logitlake.pipeline.training.train_student import train_student, training_arguments
from logitlake.storage.errors import IntegrityError, MismatchError, SettingsError
from tests.tiny_models import make_tiny_llama

# PEFT asks transformers by a name that is about to change; torch says that nothing there can be pinned.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


@pytest.fixture(autouse=True)
def _small_and_apart(monkeypatch, tmp_path):
    torch.set_num_threads(1)
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def lake(memory_lake):
    return memory_lake([[5, 9, 12], [7, 3, 8, 14], [20, 6], [4, 11, 9, 9]], vocab=211)


@pytest.fixture
def checkpoint(tiny_teacher, tmp_path):
    return shutil.copytree(tiny_teacher, tmp_path / "parent")


@pytest.fixture
def recipe(tokenizer_dir):
    tokenizer = TextTokenizer.load(tokenizer_dir)
    return {
        "teacher": {"name": "llama-1M", "weights": "w" * 32, "adapter": None},
        "tokenizer": tokenizer.fingerprint,
        "vocabulary": tokenizer.vocab_size,
        "chat": {"template": None, "targets": "assistant"},
        "temperature": 1.0,
    }


@pytest.fixture
def train(lake, checkpoint, recipe, tmp_path):
    def run(
        *,
        student=None,
        parent=None,
        changes=None,
        teacher=None,
        fetch=None,
        show_progress=False,
        on_progress=None,
        **settings,
    ):
        return train_student(
            student or StudentSettings(source="checkpoint", model=str(checkpoint)),
            TrainingSettings(**{"output": tmp_path / "out", "batch_sequences": 2, "precision": "fp32"} | settings),
            row_set=lake.row_set(),
            fetch=fetch or lake.fetch,
            recipe=recipe | (changes or {}),
            parent=parent,
            teacher=teacher,
            show_progress=show_progress,
            on_progress=on_progress,
        )

    return run


def weights(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).state_dict()


def assert_same_weights(first, second, **tolerance):
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **tolerance)


def cached_loss(directory, lake):
    parts = take_apart(AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32))
    batch = next(iter(lake.reader(batch_sequences=13)))
    with torch.no_grad():
        return model_loss(parts, batch, LossSettings()).item()


def test_the_student_is_an_ordinary_directory_and_better_than_its_parent(train, lake, checkpoint):
    student = train(epochs=4, learning_rate=1e-2)
    assert cached_loss(student.directory, lake) < cached_loss(checkpoint, lake) - 0.2
    assert AutoTokenizer.from_pretrained(student.directory)("the cat").input_ids
    assert not list(student.directory.rglob("*.bin"))
    assert student.metrics["steps"] == 28
    assert student.metrics["tokens"] == 4 * lake.row_set().n_tokens


def test_the_card_and_the_facts_state_the_lineage(train, lake, recipe):
    student = train(where="mean_entropy > 1")
    facts = json.loads((student.directory / "logitlake.json").read_text())
    card = (student.directory / "README.md").read_text()
    row_set = lake.row_set()
    assert facts["student_id"] == student.student_id
    for said in (student.student_id, student.parent_id, row_set.row_set_id, row_set.content_hash, "r" * 32, "w" * 32):
        assert said in card
    assert facts["row_set"]["up_to_commit"] == 1
    assert facts["settings"]["training"]["learning_rate"] == 3e-4
    assert facts["recipe"] == recipe


def test_a_checkpoint_without_a_tokenizer_is_saved_with_the_teachers(train, checkpoint, tokenizer_dir):
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(SettingsError, match="no teacher is set"):
        train()
    teacher = TeacherFiles(directory=tokenizer_dir, teacher_hash="w" * 32, name="tiny")
    student = train(teacher=teacher)
    assert (student.directory / "tokenizer.json").read_bytes() == (tokenizer_dir / "tokenizer.json").read_bytes()
    assert AutoTokenizer.from_pretrained(student.directory)("the cat").input_ids


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_a_student_with_another_eos_is_saved_with_that_of_the_rows(train, checkpoint, tokenizer_dir, lora):
    """An instruct teacher and a base student: `generate` must stop where the teacher's texts end."""
    for name, changes in (
        ("tokenizer_config.json", {"eos_token": "<|begin|>"}),
        ("config.json", {"eos_token_id": 0}),
        ("generation_config.json", {"eos_token_id": 0}),
    ):
        content = json.loads((checkpoint / name).read_text())
        (checkpoint / name).write_text(json.dumps(content | changes))
    teacher = TeacherFiles(directory=tokenizer_dir, teacher_hash="w" * 32, name="tiny")
    settings = StudentSettings(source="checkpoint", model=str(checkpoint), lora=lora)
    saved = train(student=settings, teacher=teacher).directory
    tokenizer, model = AutoTokenizer.from_pretrained(saved), AutoModelForCausalLM.from_pretrained(saved)
    rows_end_with = TextTokenizer.load(tokenizer_dir).eos_id
    assert (tokenizer.eos_token_id, model.config.eos_token_id) == (rows_end_with, rows_end_with)
    assert model.generation_config.eos_token_id == rows_end_with
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    written = model.generate(torch.tensor([[5]]), max_new_tokens=4, suppress_tokens=[0], do_sample=False)
    assert written.tolist() == [[5, rows_end_with]]


def test_a_known_student_is_not_trained_again(train, lake):
    first = train()
    lake.fetched.clear()
    again = train()
    assert again.existed
    assert not first.existed
    assert again.facts == json.loads(json.dumps(first.facts))
    assert lake.fetched == []


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"save_steps": 5}, True),
        ({"save_minutes": 1}, True),
        ({"local_copy": "copy"}, True),
        ({"local_copy_bytes": 5}, True),
        ({"batch_tokens": 5}, True),
        ({"batch_sequences": 8}, True),
        ({"batch_sequences": 4}, False),
        ({"step_tokens": 4096}, False),
        ({"device": "cpu"}, True),
        ({"output": Path("elsewhere")}, True),
        ({"where": "n_tokens > 5"}, True),  # the row set says it
        ({"learning_rate": 1e-3}, False),
        ({"seed": 1}, False),
        ({"cross_entropy_weight": 0.1}, False),
        ({"tail": "ghost"}, False),
        ({"loss": "cross_entropy"}, False),
    ],
)
def test_the_students_id_follows_what_it_learns_from(checkpoint, recipe, lake, change, same):
    from logitlake.pipeline.students.identity import find_parent, student_id

    student = StudentSettings(source="checkpoint", model=str(checkpoint))
    parent = find_parent(student, recipe, None)
    plain = student_id(parent, lake.row_set(), student, TrainingSettings())
    assert (student_id(parent, lake.row_set(), student, TrainingSettings(**change)) == plain) == same


@pytest.mark.parametrize(
    ("training", "expected"),
    [({}, "de549af0312d9d5d55003fd3bdbec3b7"), ({"cross_entropy_weight": 0.1}, "2432bbce9749cd7ba3df0baa125ace83")],
)
def test_students_keep_the_ids_that_they_were_trained_under(lake, training, expected):
    """Computed before there was a choice of losses."""
    from logitlake.pipeline.students.identity import Parent, student_id

    parent = Parent(parent_id="a" * 32, content_id="a" * 32, directory=None, tokenizer_directory=None)
    rows = dataclasses.replace(lake.row_set(), row_set_id="b" * 32)
    student = StudentSettings(source="teacher", layers=2)
    assert student_id(parent, rows, student, TrainingSettings(**training)) == expected


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"rms_norm_eps": 1e-3}, False),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, False),
        ({"use_cache": False, "transformers_version": "4.0"}, True),
    ],
)
def test_the_students_id_follows_what_the_config_of_a_checkpoint_decides(checkpoint, recipe, lake, changes, same):
    from logitlake.pipeline.students.identity import find_parent, student_id

    def id_now():
        student = StudentSettings(source="checkpoint", model=str(checkpoint))
        return student_id(find_parent(student, recipe, None), lake.row_set(), student, TrainingSettings())

    before = id_now()
    (checkpoint / "generation_config.json").write_text('{"max_new_tokens": 7}')
    assert id_now() == before
    change_config(checkpoint, **changes)
    assert (id_now() == before) == same


def test_a_student_that_an_older_logitlake_named_without_the_config_is_known(train, checkpoint, recipe, lake, tmp_path):
    from logitlake.pipeline.students.identity import find_parent

    settings = StudentSettings(source="checkpoint", model=str(checkpoint))
    older = train(parent=dataclasses.replace(find_parent(settings, recipe, None), config_id=None))
    again = train()
    assert again.existed and again.student_id == older.student_id
    change_config(checkpoint, rms_norm_eps=1e-3)
    with pytest.raises(SettingsError, match=f"found student {older.student_id[:12]}"):
        train()
    other = train(output=tmp_path / "other")
    assert other.student_id != older.student_id


@pytest.mark.parametrize("lora", [None, pytest.param(LoraSettings(rank=2), marks=pytest.mark.slow)])
def test_a_training_that_an_older_logitlake_began_goes_on_from_its_checkpoint(
    train, checkpoint, recipe, lake, tmp_path, lora
):
    from logitlake.pipeline.students.identity import find_parent

    student = StudentSettings(source="checkpoint", model=str(checkpoint), lora=lora)
    older = dataclasses.replace(find_parent(student, recipe, None), config_id=None)
    settings = {"student": student, "epochs": 2, "save_steps": 1}
    whole = train(parent=older, output=tmp_path / "whole", **settings)
    with pytest.raises(KilledError):
        train(parent=older, fetch=failing_fetch(lake, 1), **settings)
    began = next(tmp_path.glob(".out.*"))
    shutil.copytree(began, tmp_path / "copy" / began.name)
    steps = []
    student_now = train(on_progress=lambda progress: steps.append(progress.step), **settings)
    assert student_now.student_id == whole.student_id and steps[0] > 1
    assert_same_weights(whole.directory, student_now.directory)
    if lora is None:
        change_config(checkpoint, rms_norm_eps=1e-3)
        steps.clear()
        output = tmp_path / "copy" / "out"
        other = train(output=output, on_progress=lambda progress: steps.append(progress.step), **settings)
        assert other.student_id != whole.student_id and steps[0] == 1, "a training from another model"


def test_students_of_a_checkpoint_keep_their_ids(lake):
    from logitlake.pipeline.students.identity import Parent, student_id

    parent = Parent(
        parent_id="a" * 32, content_id="a" * 32, config_id="c" * 32, directory=None, tokenizer_directory=None
    )
    rows = dataclasses.replace(lake.row_set(), row_set_id="b" * 32)
    plain, half = (StudentSettings(source="checkpoint", model="m", dtype=dtype) for dtype in ("auto", "bfloat16"))
    found = [student_id(parent, rows, student, TrainingSettings()) for student in (plain, half)]
    assert found == ["72f7f9d56b30c05923703299ce74d162", "295a4cd4a59885123f1ab8c94a90adff"]


def test_a_student_of_a_student_names_it_as_its_parent(train, tmp_path):
    first = train()
    settings = StudentSettings(source="checkpoint", model=str(first.directory))
    second = train(student=settings, output=tmp_path / "second")
    assert second.parent_id == first.student_id


def test_another_student_is_never_overwritten(train, tmp_path):
    first = train()
    with pytest.raises(SettingsError, match=f"found student {first.student_id[:12]}"):
        train(seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingsError, match="found files that are not a student"):
        train(output=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": "f" * 32}, f"expected fingerprint {'f' * 32} of the recipe, found [0-9a-f]{{32}}"),
        (
            {"chat": {"template": "e" * 32, "targets": "all"}},
            f"expected fingerprint {'e' * 32} of the recipe, found None",
        ),
        ({"vocabulary": 300}, "at least 300 rows"),
    ],
)
def test_a_student_that_does_not_fit_the_recipe_is_refused_before_anything_is_read(train, lake, changes, message):
    with pytest.raises(MismatchError, match=message):
        train(changes=changes)
    assert lake.fetched == []


class KilledError(Exception):
    pass


def failing_fetch(lake, after):
    calls = []

    def fetch(unit_ids, columns):
        calls.append(unit_ids)
        if len(calls) > after:
            raise KilledError
        return lake.fetch(unit_ids, columns)

    return fetch


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_killed_in_the_middle_of_an_epoch_ends_with_the_same_student(train, tmp_path, lake, accumulation):
    settings = {"epochs": 2, "save_steps": 1, "gradient_accumulation": accumulation, "learning_rate": 1e-3}
    whole = train(output=tmp_path / "whole", **settings)

    class Stop(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 3:
                raise KilledError

    original = DistillationTrainer.__init__

    def with_stop(self, *args, **options):
        original(self, *args, **options)
        self.add_callback(Stop())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationTrainer, "__init__", with_stop)
        with pytest.raises(KilledError):
            train(output=tmp_path / "killed", **settings)
    assert not (tmp_path / "killed").exists()
    work = next(tmp_path.glob(".killed.*")) / "checkpoints"
    state = json.loads((last_checkpoint(work) / READER_STATE).read_text())
    assert (state["epoch"], state["step"]) == (0, 3)
    resumed = train(output=tmp_path / "killed", **settings)
    assert resumed.student_id == whole.student_id
    for name in ("steps", "tokens"):
        assert resumed.metrics[name] == whole.metrics[name]
    assert resumed.metrics["train_loss"] == pytest.approx(whole.metrics["train_loss"], rel=1e-5)
    assert_same_weights(whole.directory, resumed.directory)
    assert not list(tmp_path.glob(".killed.*"))


def test_checkpoints_by_time_are_on_unless_told_otherwise(train, tmp_path, lake, monkeypatch):
    """An hour passes at each look at the clock: with the default settings each step has a checkpoint."""
    hours = count()
    monkeypatch.setattr(distillation_trainer, "time", SimpleNamespace(monotonic=lambda: 3600.0 * next(hours)))
    with pytest.raises(KilledError):
        train(fetch=failing_fetch(lake, 1), epochs=2)
    work = next(tmp_path.glob(".out.*")) / "checkpoints"
    assert last_checkpoint(work) is not None
    with pytest.raises(KilledError):
        train(output=tmp_path / "none", fetch=failing_fetch(lake, 1), epochs=2, save_minutes=None)
    assert not list(next(tmp_path.glob(".none.*")).glob("checkpoints/checkpoint-*"))


def refused(*_, **__):
    raise MismatchError("as if the saved student were another one")


@pytest.mark.parametrize(
    ("settings", "lora"),
    [
        ({"max_steps": 3}, None),
        pytest.param({"epochs": 2}, None, marks=pytest.mark.slow),
        pytest.param({"max_steps": 3}, ("lm_head", "q_proj"), marks=pytest.mark.slow),
        pytest.param({"max_steps": 3, "gradient_accumulation": 2, "epochs": 3}, None, marks=pytest.mark.slow),
        pytest.param({"epochs": 2, "save_steps": 2}, None, marks=pytest.mark.slow),
    ],
)
def test_a_training_whose_student_was_refused_is_not_done_again(
    train, checkpoint, tmp_path, lake, monkeypatch, settings, lora
):
    """The last checkpoint is that of the last step, also inside an epoch: no row is read and no step is done again."""
    student = StudentSettings(
        source="checkpoint", model=str(checkpoint), lora=lora and LoraSettings(rank=2, target_modules=lora)
    )
    settings = {"student": student, "learning_rate": 1e-3} | settings
    whole = train(output=tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(save_student, "check_tokenizer_again", refused)
        for _ in range(2):
            with pytest.raises(MismatchError, match="as if"):
                train(**settings)
            assert not (tmp_path / "out").exists()
            settings["fetch"] = failing_fetch(lake, 0)
    again = train(**settings)
    assert_same_weights(whole.directory, again.directory, rtol=0, atol=0)
    for name in ("steps", "tokens", "train_loss"):
        assert again.metrics[name] == pytest.approx(whole.metrics[name])
    assert again.curve == whole.curve
    assert not list(tmp_path.glob(".out.*"))


def test_the_memory_of_the_optimiser_is_free_while_the_student_is_compared(train, monkeypatch):
    save, seen = train_student_module.save_student, []

    def watched(trainer, *args):
        seen.append(len(trainer.optimizer.state))
        with monkeypatch.context() as patch:
            write = save_student.write_in_dtype
            compared = lambda *a, **b: seen.append(len(trainer.optimizer.state)) or write(*a, **b)  # noqa: E731
            patch.setattr(save_student, "write_in_dtype", compared)
            return save(trainer, *args)

    monkeypatch.setattr(train_student_module, "save_student", watched)
    train()
    assert seen[0] > 0 and seen[1] == 0


def as_in_tf32(tensor):
    """The nearest number with 10 bits after the point; its gradient is that of the tensor."""
    rounded = ((tensor.detach().contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return tensor + (rounded - tensor).detach()


def test_a_lora_student_is_made_where_matrix_products_round_their_factors(train, checkpoint, monkeypatch):
    """As TF32 does, here where nothing can switch it off."""
    make_tiny_llama(initializer_range=0.2).save_pretrained(checkpoint)
    linear = torch.nn.functional.linear
    monkeypatch.setattr(
        torch.nn.functional, "linear", lambda x, weight, bias=None: linear(as_in_tf32(x), as_in_tf32(weight), bias)
    )
    lora = LoraSettings(rank=8, target_modules="all-linear")
    student = StudentSettings(source="checkpoint", model=str(checkpoint), lora=lora)
    assert train(student=student, learning_rate=1e-2, epochs=2).directory.is_dir()


def test_a_checkpoint_is_on_the_disk_before_the_file_that_makes_it_complete(train, tmp_path, lake, monkeypatch):
    """After a power loss, a complete checkpoint with empty files would stop every later attempt."""
    synced, flush = [], os.fsync

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        synced.append((path.name, (path.parent / MANIFEST).exists()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KilledError):
        train(fetch=failing_fetch(lake, 1), epochs=2, save_steps=1)
    names = ("model.safetensors", "optimizer.pt", "trainer_state.json", READER_STATE, f"{MANIFEST}.tmp")
    assert {(name, False) for name in names} <= set(synced)


def test_a_disk_without_room_for_checkpoints_does_not_end_a_training(train, tmp_path, lake, monkeypatch, caplog):
    hours = count()
    monkeypatch.setattr(distillation_trainer, "time", SimpleNamespace(monotonic=lambda: 3600.0 * next(hours)))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(KilledError):
        train(fetch=failing_fetch(lake, 1), epochs=2)
    assert not list(next(tmp_path.glob(".out.*")).glob("checkpoints/checkpoint-*"))
    assert "no checkpoint was written" in caplog.text
    assert train(epochs=2).directory.is_dir()


def test_a_checkpoint_of_other_steps_is_refused(train, tmp_path, lake):
    """Optimiser and schedule count steps, so training would end too early."""
    settings = {"batch_sequences": None, "step_tokens": 20, "save_steps": 1, "epochs": 2}
    with pytest.raises(KilledError):
        train(fetch=failing_fetch(lake, 1), **settings)
    work = next(tmp_path.glob(".out.*")) / "checkpoints"
    path = last_checkpoint(work)
    state = json.loads((path / READER_STATE).read_text())
    complete_checkpoint(path, state | {"step_tokens": 40})
    with pytest.raises(MismatchError, match=r"checkpoint-\d+: .*step_tokens 40, this reader's are of step_tokens 20"):
        train(**settings)


def test_a_training_that_came_to_nan_says_so(train, tmp_path):
    trained = train(learning_rate=1e30, epochs=2, max_grad_norm=1e30)
    facts = json.loads((trained.directory / "logitlake.json").read_text())
    assert facts["metrics"]["train_loss"] is None


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_a_training_goes_on_from_the_checkpoint_before_a_damaged_one(train, tmp_path, lake, caplog):
    settings = {"epochs": 2, "save_steps": 1, "learning_rate": 1e-3}
    whole = train(output=tmp_path / "whole", **settings)
    with pytest.raises(KilledError):
        train(fetch=failing_fetch(lake, 1), **settings)
    work = next(tmp_path.glob(".out.*")) / "checkpoints"
    before, last = sorted(work.iterdir())
    change_a_byte(last / "model.safetensors")
    caplog.set_level("INFO", "logitlake")
    again = train(**settings)
    assert f"checkpoint {last} is not whole" in caplog.text and "model.safetensors: its content" in caplog.text
    assert f"from {before.name}" in caplog.text
    assert_same_weights(whole.directory, again.directory)
    assert again.metrics["tokens"] == whole.metrics["tokens"]


@pytest.mark.slow
def test_a_training_with_damaged_checkpoints_only_starts_from_the_beginning(train, tmp_path, lake, caplog):
    settings = {"epochs": 2, "save_steps": 1, "learning_rate": 1e-3}
    with pytest.raises(KilledError):
        train(fetch=failing_fetch(lake, 1), **settings)
    for checkpoint in (next(tmp_path.glob(".out.*")) / "checkpoints").iterdir():
        (checkpoint / "optimizer.pt").unlink()
    again = train(**settings)
    assert "the training starts from step 0" in caplog.text
    assert_same_weights(train(output=tmp_path / "whole", **settings).directory, again.directory)


def test_a_student_whose_weights_were_changed_is_not_loaded_and_not_trained_on(train, tmp_path):
    student = train()
    change_a_byte(student.directory / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"model\.safetensors: its content was changed"):
        load_student(student.directory)
    settings = StudentSettings(source="checkpoint", model=str(student.directory))
    with pytest.raises(IntegrityError, match=r"model\.safetensors: its content was changed"):
        train(student=settings, output=tmp_path / "second")


def test_an_error_of_the_reader_ends_the_training_and_leaves_no_student(train, lake, tmp_path):
    with pytest.raises(KilledError):
        train(fetch=failing_fetch(lake, 0))
    assert not (tmp_path / "out").exists()


def test_accumulation_is_the_same_as_one_large_batch(train, tmp_path):
    settings = {"epochs": 2, "learning_rate": 1e-3}
    whole = train(output=tmp_path / "a", batch_sequences=4, **settings)
    parts = train(output=tmp_path / "b", batch_sequences=2, gradient_accumulation=2, **settings)
    single = train(output=tmp_path / "c", batch_sequences=1, gradient_accumulation=4, **settings)
    for other in (parts, single):
        assert_same_weights(whole.directory, other.directory, rtol=1e-3, atol=2e-5)
        assert other.metrics["train_loss"] == pytest.approx(whole.metrics["train_loss"], rel=1e-4)


@pytest.mark.slow
def test_the_tokens_of_a_batch_and_packing_change_no_student(train, tmp_path):
    settings = {"epochs": 2, "learning_rate": 1e-3, "batch_sequences": None, "step_tokens": 40}
    whole = train(output=tmp_path / "a", **settings)
    parts = train(output=tmp_path / "b", batch_tokens=12, **settings)
    packed = train(output=tmp_path / "c", packing=True, **settings)
    for other in (parts, packed):
        assert other.student_id == whole.student_id
        assert other.metrics["steps"] == whole.metrics["steps"] == 2 * round(117 / 40)
        assert_same_weights(whole.directory, other.directory, rtol=1e-3, atol=2e-5)
        assert other.metrics["train_loss"] == pytest.approx(whole.metrics["train_loss"], rel=1e-4)


def test_the_loss_that_is_reported_is_the_mean_over_targets(lake, checkpoint, tmp_path):
    """One step over all rows, with a learning rate too small to move: training and evaluation say the same."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    for accumulation in (1, 3):
        size = -(-13 // accumulation)
        settings = TrainingSettings(
            batch_sequences=size, gradient_accumulation=accumulation, learning_rate=1e-12, precision="fp32"
        )
        args = training_arguments(settings, tmp_path, show_progress=False)
        reader = lake.reader(batch_sequences=size, accumulation=accumulation)
        trainer = DistillationTrainer(model, args, reader=reader, loss=LossSettings())
        result = trainer.train()
        assert result.global_step == 1
        assert result.training_loss == pytest.approx(cached_loss(checkpoint, lake), rel=1e-5)


def test_masked_positions_are_not_counted(lake, checkpoint, make_rows):
    """Labels outnumber targets here: a mean over labels would be smaller."""
    rows = make_rows([30, 30], masked=0.7)
    batch = make_batch(rows)
    assert batch.step_targets == sum(rows["n_targets"].to_pylist()) < 30


def test_lora_moves_its_own_weights_and_the_result_is_a_whole_model(train, checkpoint, lake):
    settings = StudentSettings(source="checkpoint", model=str(checkpoint), lora=LoraSettings(rank=4))
    student = train(student=settings, epochs=4, learning_rate=2e-2)
    assert cached_loss(student.directory, lake) < cached_loss(checkpoint, lake) - 0.02
    before, after = weights(checkpoint), weights(student.directory)
    assert before.keys() == after.keys()
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert (student.directory / "adapter" / "adapter_config.json").exists()


@pytest.mark.parametrize("targets", [("lm_head",), ("lm_head", "q_proj")])
def test_an_adapter_on_the_tied_output_layer_is_saved_as_it_was_trained(train, checkpoint, lake, targets):
    lora = LoraSettings(rank=4, target_modules=targets)
    settings = StudentSettings(source="checkpoint", model=str(checkpoint), lora=lora)
    student = train(student=settings, epochs=4, learning_rate=2e-2)
    assert cached_loss(student.directory, lake) < cached_loss(checkpoint, lake) - 0.02
    before, after = weights(checkpoint), weights(student.directory)
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of merging into a tied layer: nothing is merged here
        adapted = PeftModel.from_pretrained(base, student.directory / "adapter")
    ids = torch.arange(20).unsqueeze(0)
    whole = AutoModelForCausalLM.from_pretrained(student.directory)
    torch.testing.assert_close(adapted(input_ids=ids).logits, whole(ids).logits, rtol=1e-4, atol=1e-5)


def test_a_student_is_saved_in_the_dtype_of_its_parent_or_of_the_settings(train, checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint).to(torch.bfloat16)
    model.save_pretrained(checkpoint)
    settings = StudentSettings(source="checkpoint", model=str(checkpoint))
    half = train(student=settings, learning_rate=1e-3)
    whole = train(
        student=settings.model_copy(update={"dtype": "float32"}), learning_rate=1e-3, output=tmp_path / "whole"
    )
    assert half.student_id != whole.student_id
    assert (half.facts["saved"]["dtype"], whole.facts["saved"]["dtype"]) == ("bfloat16", "float32")
    sizes = [(student.directory / "model.safetensors").stat().st_size for student in (half, whole)]
    assert sizes[0] < 0.6 * sizes[1]
    rounded = {name: tensor.bfloat16().float() for name, tensor in weights(whole.directory).items()}
    assert all(torch.equal(tensor, rounded[name]) for name, tensor in weights(half.directory).items())
    evaluated = load_student(half.directory).state_dict()
    assert all(torch.equal(tensor, rounded[name]) for name, tensor in evaluated.items()), "measured is what is saved"


def test_a_student_that_is_not_read_again_as_it_was_trained_is_not_made(train, monkeypatch, tmp_path):
    """As if saving lost a weight: the model class writes something else than it holds."""
    save = LlamaForCausalLM.save_pretrained

    def save_another(model, directory, *, state_dict=None, **options):
        other = {name: tensor.clone() for name, tensor in (state_dict or model.state_dict()).items()}
        other["model.norm.weight"] += 0.25
        save(model, directory, state_dict=other, **options)

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save_another)
    with pytest.raises(MismatchError, match=r"model\.norm\.weight differs by up to 0\.25.*nothing is registered"):
        train()
    assert not (tmp_path / "out").exists()


def test_what_people_may_change_in_a_student_is_not_taken_for_damage(train):
    student = train()
    (student.directory / "generation_config.json").write_text('{"temperature": 0.5, "do_sample": true}')
    (student.directory / "README.md").write_text("mine")
    load_student(student.directory)
    (student.directory / "config.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"config\.json: expected"):
        load_student(student.directory)


def test_others_may_read_a_student(train):
    modes = {path.is_dir(): path.stat().st_mode & 0o444 for path in train().directory.rglob("*")}
    fresh = Path(train().directory.parent / "fresh")
    fresh.touch()
    assert modes[False] == fresh.stat().st_mode & 0o444


def test_gradient_checkpointing_trains_the_same_student(train, tmp_path):
    a = train(output=tmp_path / "a")
    b = train(output=tmp_path / "b", gradient_checkpointing=True)
    assert_same_weights(a.directory, b.directory, rtol=1e-4, atol=1e-6)


def test_bf16_autocast_keeps_float32_weights(train, tmp_path):
    student = train(precision="bf16", cross_entropy_weight=0.3)
    assert student.metrics["precision"] == "bf16"
    model = AutoModelForCausalLM.from_pretrained(student.directory)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_sixteen_bit_floats_on_a_cpu_are_refused(train):
    with pytest.raises(SettingsError, match="not on a CPU"):
        train(precision="fp16", device="cpu")


@pytest.mark.parametrize("show_progress", [True, False])
def test_nothing_is_written_to_standard_output(train, capsys, show_progress):
    reports = []
    train(epochs=3, show_progress=show_progress, on_progress=reports.append)
    assert capsys.readouterr().out == ""
    assert [report.step for report in reports if report.loss is None] == list(range(1, 22))
    with_loss = [report for report in reports if report.loss is not None]
    # So short a training gives its loss at every step.
    assert [report.step for report in with_loss] == list(range(1, 22))
    assert all(report.max_steps == 21 and report.loss > 0 for report in with_loss)


def test_max_steps_ends_training_inside_an_epoch(train):
    assert train(max_steps=3).metrics["steps"] == 3


RANK = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from conftest import MemoryLake, make_rows_of
from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.settings.training import TrainingSettings
from logitlake.pipeline.training.distillation_trainer import DistillationTrainer
from logitlake.pipeline.training.train_student import train_student

training_step = DistillationTrainer.training_step

def killed(trainer, *args):
    if trainer.state.global_step == {steps}:
        raise RuntimeError("killed here")
    return training_step(trainer, *args)

DistillationTrainer.training_step = killed
lake = MemoryLake(make_rows_of, {lengths!r}, vocab=211)
train_student(
    StudentSettings(source="checkpoint", model={checkpoint!r}),
    TrainingSettings(output=Path({output!r}), epochs=2, learning_rate=1e-3, precision="fp32", device="cpu",
                     **{settings!r}),
    row_set=lake.row_set(), fetch=lake.fetch, recipe=json.loads({recipe!r}), show_progress=False,
)
"""


@pytest.fixture
def train_on_ranks(checkpoint, recipe, tmp_path):
    """Train in so many processes, on the rows and with the settings of `train`; after `steps` they are killed."""

    def run(ranks, output, steps=None, **settings):
        script = tmp_path / "rank.py"
        script.write_text(
            RANK.format(
                tests=str(Path(__file__).parents[3]),
                lengths=[[5, 9, 12], [7, 3, 8, 14], [20, 6], [4, 11, 9, 9]],
                checkpoint=str(checkpoint),
                output=str(output),
                recipe=json.dumps(recipe),
                steps=steps,
                settings=settings,
            )
        )
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        root = Path(__file__).parents[4]
        done = subprocess.run(
            [*launch, str(script)], cwd=root, env=_environment(root), capture_output=True, text=True, timeout=300
        )
        assert (done.returncode == 0) == (steps is None), done.stderr[-3000:]
        assert steps is None or "killed here" in done.stderr
        return output

    return run


@pytest.fixture
def logged(monkeypatch):
    """What trainings in this process log: of each step its loss, and the norm of its gradient."""
    entries, make = {}, DistillationTrainer.__init__

    class Log(TrainerCallback):
        def on_log(self, args, state, control, logs, **_):
            if "loss" in logs:
                entries[state.global_step] = (logs["loss"], logs["grad_norm"])

    def with_log(self, *args, **options):
        make(self, *args, **options)
        self.add_callback(Log())

    monkeypatch.setattr(DistillationTrainer, "__init__", with_log)
    return entries


EVEN_STEPS = {"batch_sequences": None, "step_tokens": 20, "batch_tokens": 16}


@pytest.mark.slow
def test_two_ranks_train_the_student_that_one_rank_trains(train, train_on_ranks, tmp_path):
    one = train(output=tmp_path / "one", epochs=2, learning_rate=1e-3, **EVEN_STEPS)
    both = train_on_ranks(2, tmp_path / "both", **EVEN_STEPS)
    assert_same_weights(one.directory, both, rtol=1e-3, atol=2e-5)
    facts = json.loads((both / "logitlake.json").read_text())
    assert facts["metrics"]["processes"] == 2
    assert facts["metrics"]["tokens"] == one.metrics["tokens"]
    assert facts["metrics"]["train_loss"] == pytest.approx(one.metrics["train_loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alone", "ranks"),
    [
        ({"batch_sequences": 2, "gradient_accumulation": 2}, {"batch_sequences": 1, "gradient_accumulation": 2}),
        (EVEN_STEPS, EVEN_STEPS),
    ],
)
def test_a_training_goes_on_with_the_same_steps_on_another_number_of_ranks(
    train, train_on_ranks, logged, tmp_path, alone, ranks
):
    """Two ranks are killed inside an epoch and one goes on: loss and gradient of each step are those of one rank."""
    settings = {"epochs": 2, "learning_rate": 1e-3, "save_steps": 1}
    whole = train(output=tmp_path / "whole", **settings, **alone)
    expected = dict(logged)
    assert sorted(expected) == list(range(1, whole.metrics["steps"] + 1))
    logged.clear()
    train_on_ranks(2, tmp_path / "out", steps=2, save_steps=1, **ranks)
    checkpoint = last_checkpoint(next(tmp_path.glob(".out.*")) / "checkpoints")
    log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    found = {entry["step"]: (entry["loss"], entry["grad_norm"]) for entry in log}
    assert list(found) == [1, 2] and whole.metrics["steps"] > 4, "killed inside the first epoch"
    resumed = train(**settings, **ranks)
    assert min(logged) == 3
    found |= logged
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=1e-3), f"loss and norm of the gradient of step {step}"
    for name in ("steps", "tokens"):
        assert resumed.metrics[name] == whole.metrics[name]
    assert_same_weights(whole.directory, resumed.directory, rtol=1e-3, atol=2e-5)


def _environment(root):
    import os

    return os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


def test_a_reader_of_the_api_and_the_trainer_read_the_same(lake, checkpoint, tmp_path):
    args = training_arguments(TrainingSettings(batch_sequences=4, precision="fp32"), tmp_path, show_progress=False)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    reader = RowSetReader(lake.row_set(), lake.fetch, batch_sequences=4)
    trainer = DistillationTrainer(model, args, reader=reader, loss=LossSettings())
    seen = list(trainer.get_train_dataloader())
    for step, expected in zip(seen, lake.reader(block_tokens=2_000_000), strict=True):
        (batch,) = step["batches"]
        assert torch.equal(batch["input_ids"], expected.input_ids)
        assert torch.equal(batch["target_ids"], expected.targets.ids)
