"""Students cut from teachers of every architecture, read again by plain transformers.

The architectures are those that docs/teachers.md names for students.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.saving.probe import probe_logits, probe_sequences
from logitlake.pipeline.saving.write_and_compare import Trained, write_in_dtype
from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.students.identity import Parent
from logitlake.pipeline.students.initial_model import make_student
from logitlake.storage.errors import MismatchError, SettingsError
from tests.tiny_architectures import VOCABULARY, tiny_model

WINDOW = 64
PAGE = Path("docs/teachers.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Students that were compared")[2].partition("\n## ")[0]
COMPARED, REFUSED, CHANGED = (
    re.findall(r"`([\w-]+)`", part) for part in re.split("Refused (?:before|after) training", SECTION)
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def cut_student(model_type: str, directory: Path, layers: int) -> Any:
    """A student cut from a tiny teacher of four layers, whose weights were moved as a training moves them."""
    torch.set_num_threads(1)
    tiny_model(model_type).save_pretrained(directory)
    teacher = TeacherFiles(directory=directory, teacher_hash="w" * 32, name=model_type)
    parent = Parent(parent_id="p", content_id="p", directory=directory, tokenizer_directory=None)
    settings = StudentSettings(source="teacher", layers=layers)
    student = make_student(settings, parent, {"vocabulary": VOCABULARY}, teacher=teacher, seed=0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return student


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", COMPARED)
def test_a_saved_student_is_the_trained_one(model_type: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Every position of two sequences, by plain transformers; in bfloat16 against the student's rounded weights."""
    student = cut_student(model_type, tmp_path / "teacher", 3).eval()
    sequences = probe_sequences(student.config, vocabulary=VOCABULARY, window=WINDOW)
    trained = Trained(
        name=model_type,
        sequences=sequences,
        logits=probe_logits(student, sequences),
        device=torch.device("cpu"),
        weights=student.state_dict(),
    )
    student.save_pretrained(tmp_path / "full")
    saved = write_in_dtype(tmp_path / "full", tmp_path / "student", trained, dtype=dtype, or_float32=False)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
    assert again.dtype == dtype == getattr(torch, saved.dtype)
    weights = again.state_dict()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student", dtype=torch.float32).eval()
    student.load_state_dict({name: t.to(weights[name].dtype).float() for name, t in student.state_dict().items()})
    with torch.inference_mode():
        found, expected = (
            torch.cat([model(input_ids=ids).logits[0] for ids in sequences]) for model in (again, student)
        )
    assert expected.std() > 0.05, "the logits tell something"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_cut_that_no_config_describes_is_refused_before_training(model_type: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"student\.layers: .* would load with other tensors"):
        cut_student(model_type, tmp_path, 3)


@pytest.mark.parametrize("model_type", CHANGED)
def test_a_student_that_transformers_changes_as_it_loads_is_refused_by_name(model_type: str, tmp_path: Path) -> None:
    student = cut_student(model_type, tmp_path / "teacher", 3)
    sequences = probe_sequences(student.config, vocabulary=VOCABULARY, window=WINDOW)
    trained = Trained(
        name=model_type,
        sequences=sequences,
        logits=probe_logits(student, sequences),
        device=torch.device("cpu"),
        weights=student.state_dict(),
    )
    student.save_pretrained(tmp_path / "full")
    with pytest.raises(MismatchError, match=rf"student {model_type}: .* its weight .* differs by up to"):
        write_in_dtype(tmp_path / "full", tmp_path / "student", trained, dtype=torch.float32)
