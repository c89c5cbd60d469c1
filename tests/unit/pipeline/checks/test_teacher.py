"""All checks of tiny models of many architectures: no false alarm, and what the probe refuses is a row."""

import tempfile
import weakref
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from logitlake.pipeline.capture.recipe import make_recipe
from logitlake.pipeline.checks import reference, sample, teacher
from logitlake.pipeline.checks.outcome import Outcome, joined, judged, not_compared
from logitlake.pipeline.checks.teacher import CheckReport, check_probabilities, check_tokens
from logitlake.pipeline.corpus.document import Document
from logitlake.pipeline.model_files.files import TeacherSource, resolve_teacher
from logitlake.pipeline.settings.models import TeacherSettings, TokenizationSettings
from logitlake.pipeline.targets.sparsifiers.varopt import VarOptSettings
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


@pytest.mark.slow
def test_windows_are_compared_by_groups_with_the_outcomes_of_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, most_alive = set(), 0

    def watched(tensors: list[Any]) -> list[Any]:
        nonlocal most_alive
        for tensor in tensors:
            alive.add((id(tensor), tensor.nbytes))
            weakref.finalize(tensor, alive.discard, (id(tensor), tensor.nbytes))
        most_alive = max(most_alive, sum(n_bytes for _, n_bytes in alive))
        return tensors

    for module, name in ((teacher, "logprobs_alone"), (teacher, "engine_logprobs"), (reference, "_logprobs")):
        function = getattr(module, name)
        if name == "_logprobs":
            watching = lambda *args, f=function: watched([f(*args)])[0]  # noqa: E731
        else:
            watching = lambda *args, f=function: watched(f(*args))  # noqa: E731
        monkeypatch.setattr(module, name, watching)
    # The same positions, whatever fits into a group.
    monkeypatch.setattr(sample, "_FEWEST_POSITIONS", 16)
    monkeypatch.setattr(sample, "_POSITIONS", 16)
    reports, most = [], []
    for elements in (1 << 25, 2_000):
        monkeypatch.setattr(sample, "_ELEMENTS", elements)
        most_alive = 0
        reports.append(checked(tiny_model("gemma2"), tmp_path / str(elements)))
        most.append(most_alive)
    assert differing(reports[1]) == []
    shown = [[(o.check, o.compared, o.unit, o.bound) for o in report.outcomes] for report in reports]
    assert shown[0] == shown[1]
    assert most[1] < most[0] / 2
    assert not list(Path(tempfile.gettempdir()).glob("logitlake-check-*"))


def test_a_difference_in_one_group_is_named_whichever_it_is() -> None:
    def outcome(difference: float, detail: str) -> Outcome:
        return judged(
            "c", compared=5, unit="positions", difference=difference, bound=1.0, measure="nats", detail=detail
        )

    for bad in (2.0, float("nan"), float("inf")):
        groups = [outcome(0.5, "a"), outcome(bad, "b"), outcome(0.1, "c"), not_compared("c", "positions", "none")]
        for order in permutations(groups):
            [result] = joined(order)
            assert (result.result, result.detail, result.compared) == ("differs", "b", 15)
    [result] = joined([outcome(0.5, "a"), not_compared("c", "positions", "none")])
    assert (result.result, result.difference, result.compared) == ("pass", 0.5, 5)
    assert joined([not_compared("c", "positions", "none")] * 2) == [not_compared("c", "positions", "none")]
