"""All checks of tiny models of many architectures: no false alarm, and what the probe refuses is a row."""

from pathlib import Path
from typing import Any

import pytest

from logitlake.pipeline.capture.recipe import make_recipe
from logitlake.pipeline.checks.teacher import CheckReport, check_probabilities, check_tokens
from logitlake.pipeline.corpus.document import Document
from logitlake.pipeline.settings.models import TeacherSettings, TokenizationSettings
from logitlake.pipeline.targets.sparsifiers.varopt import VarOptSettings
from logitlake.pipeline.teachers.files import TeacherSource, resolve_teacher
from logitlake.pipeline.tokens.sequences import TokenizedDocument, tokenize_documents
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from tests.tiny_architectures import tiny_model
from tests.tiny_lake import text_of
from tests.tiny_models import write_tiny_tokenizer
from tests.unit.pipeline.teachers.test_probe import WINDOW, longrope_model

SLOW = ("gpt2", "mixtral", "mamba2", "gemma3_text", "qwen3_next", "deepseek_v3", "jamba", "bloom", "gpt_oss", "rwkv")
TOKENIZATION = TokenizationSettings(window=WINDOW, overlap=8)


def checked(model: Any, directory: Path, window: int = WINDOW) -> CheckReport:
    """The checks of a model with the tiny tokenizer on documents of one to three windows."""
    model.save_pretrained(directory)
    write_tiny_tokenizer(directory)
    settings = TeacherSettings(model=str(directory), device="cpu", dtype="float32")
    files, tokenizer = resolve_teacher(settings), TextTokenizer.load(directory)
    recipe = make_recipe(
        files=files, tokenizer=tokenizer, teacher=settings, tokenization=TOKENIZATION, target=VarOptSettings()
    )
    texts = [text_of(number) * (1 + 3 * (number % 3)) for number in range(6)]
    read = [Document(f"{number:032x}", text, "c", "a.txt", number) for number, text in enumerate(texts)]
    documents = [d for d in tokenize_documents(read, tokenizer, TOKENIZATION) if isinstance(d, TokenizedDocument)]
    source = TeacherSource(settings=settings, files=files, vocabulary=tokenizer.vocab_size, window=window)
    tokens = check_tokens(documents, source=source, tokenizer=tokenizer, tokenization=TOKENIZATION)
    found = check_probabilities(documents, source=source, recipe=recipe, batch_tokens=512)
    return CheckReport(outcomes=[*tokens.outcomes, *found.outcomes], measured=found.measured)


def differing(report: CheckReport) -> list[tuple[str, str]]:
    return [(outcome.check, outcome.detail) for outcome in report.outcomes if outcome.result != "pass"]


@pytest.mark.parametrize("kind", ["gemma2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def test_a_sound_model_passes(kind: str, tmp_path: Path) -> None:
    report = checked(tiny_model(kind), tmp_path)
    assert differing(report) == []
    assert len(report.outcomes) == 9 and report.measured["tokens_per_second"] > 0


@pytest.mark.slow
def test_a_model_that_is_computed_one_document_at_a_time_passes(tmp_path: Path) -> None:
    assert differing(checked(longrope_model(), tmp_path)) == []


def test_the_same_model_without_a_probe_of_the_window_differs_between_batches(tmp_path: Path) -> None:
    """The real documents show what a probe of short sequences can't: a RoPE scaling by the longest of the batch."""
    assert "batches" in dict(differing(checked(longrope_model(), tmp_path, window=WINDOW // 2)))


def test_a_bidirectional_model_is_a_row_that_says_why(tmp_path: Path) -> None:
    [(check, detail)] = differing(checked(tiny_model("bert"), tmp_path))
    assert (check, "expected a causal language model" in detail) == ("engine", True)
