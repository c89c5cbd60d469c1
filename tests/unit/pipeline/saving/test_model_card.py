import json
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from logitlake.pipeline.saving.card_metadata import find_parent_origin
from logitlake.pipeline.saving.model_card import add_evaluation, render_card, snippet, write_card
from logitlake.pipeline.settings.models import StudentSettings, TrainingSettings
from logitlake.pipeline.students.identity import Parent
from tests.tiny_models import make_tiny_llama

ORIGIN = {"model": "owner/teacher", "revision": "a" * 40, "licence": "apache-2.0", "base_models": ["owner/base"]}
METRICS = {
    "before": {"kl": 3.0, "kl_stderr": 0.1, "cross_entropy": 5.0, "top1_agreement": 0.125, "calibration_error": 0.5},
    "after": {"kl": 1.25, "kl_stderr": 0.01, "cross_entropy": 3.5, "top1_agreement": 0.625, "calibration_error": None},
    "teacher": {"kl": 0.0, "kl_stderr": 0.0, "cross_entropy": 2.75, "top1_agreement": 1.0, "calibration_error": 0.03},
    "held_out": {"row_set_id": "9" * 32, "exact": True},
    "train": {"steps": 3},
}


@pytest.fixture
def facts():
    names = {"row_set_id": "b" * 32, "recipe_ids": ["c" * 32], "up_to_commit": 4, "where": "a | b", "weight": None}
    return {
        "student_id": "d" * 32,
        "parent_id": "e" * 32,
        "parent": "cut from the teacher",
        "origin": ORIGIN,
        "saved": {"dtype": "bfloat16", "rounding_kl": 0.0005},
        "row_set": {**names, "query": None, "content_hash": "f" * 32, "n_sequences": 1, "n_tokens": 2, "n_targets": 3},
        "recipe": {
            "teacher": {"name": "llama-1M", "weights": "w" * 32, "adapter": None},
            "chat": {"template": None},
            "facts": {"teacher": ORIGIN},
        },
        "settings": {
            "student": StudentSettings(layers=2).model_dump(mode="json"),
            "training": TrainingSettings().model_dump(mode="json"),
        },
        "metrics": {"train_loss": float("nan"), "steps": 3},
    }


def test_the_hub_reads_base_model_licence_and_results(facts, tmp_path):
    write_card(tmp_path, facts)
    assert ModelCard.load(tmp_path / "README.md").data.eval_results is None
    add_evaluation(tmp_path, METRICS)
    card = ModelCard.load(tmp_path / "README.md", ignore_metadata_errors=False)
    assert card.data.base_model == ["owner/teacher"]
    assert (card.data.license, card.data.license_name) == ("apache-2.0", None)
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"kl_divergence": 1.25, "top1_agreement": 0.625, "cross_entropy": 3.5}
    assert {result.dataset_revision for result in card.data.eval_results} == {"9" * 32}
    assert {result.dataset_name for result in card.data.eval_results} == {f"held-out documents of recipe {'c' * 12}"}
    assert card.data.model_name == f"student {'d' * 12}"


def test_the_card_shows_the_student_beside_itself_before_training_and_its_teacher(facts, tmp_path):
    write_card(tmp_path, facts)
    assert "Not measured" in (tmp_path / "README.md").read_text()
    add_evaluation(tmp_path, METRICS)
    card = (tmp_path / "README.md").read_text()
    assert "| KL from the teacher (nats) | 1.25 | 3 | 0 |" in card
    assert "| cross-entropy (nats) | 3.5 | 5 | 2.75 |" in card
    assert "| expected calibration error | – | 0.5 | 0.03 |" in card
    assert "KL is from the teacher itself" in card
    for said in ("b" * 32, "f" * 32, "a \\| b", "bfloat16", "0.0005", "apache-2.0", "w" * 32):
        assert said in card
    assert json.loads((tmp_path / "logitlake.json").read_text())["evaluation"]["after"]["kl"] == 1.25
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "logitlake.json"]


@pytest.mark.parametrize(
    ("origin", "base_model", "licence"),
    [
        ({"model": "/models/mine", "base_models": ["owner/base"], "licence": "mit"}, ["owner/base"], ("mit", None)),
        ({"model": "/models/mine"}, None, (None, None)),
        ({"model": "owner/name", "licence": "own-licence"}, ["owner/name"], ("other", "own-licence")),
        ({}, None, (None, None)),
    ],
)
def test_the_card_claims_only_what_is_known(facts, origin, base_model, licence):
    data = ModelCard(render_card({**facts, "origin": origin})).data
    assert data.base_model == base_model
    assert (data.license, data.license_name) == licence


def test_a_students_facts_of_an_older_logitlake_make_a_card(facts):
    del facts["origin"], facts["saved"]
    facts["recipe"] = {"teacher": facts["recipe"]["teacher"]}
    assert ModelCard(render_card(facts)).data.library_name == "transformers"


def test_a_directory_is_no_id_on_the_hub_even_if_it_looks_like_one(facts, tmp_path, monkeypatch):
    (tmp_path / "owner" / "teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert ModelCard(render_card(facts)).data.base_model == ["owner/base"]


def test_the_origin_of_weights_is_that_of_their_parent(tmp_path):
    recipe = {"facts": {"teacher": ORIGIN}}
    (tmp_path / "README.md").write_text("---\nlicense: mit\nbase_model: owner/small\n---\n")
    parent = Parent(parent_id="p", content_id="p", directory=tmp_path, tokenizer_directory=None)
    assert find_parent_origin(StudentSettings(layers=1), parent, recipe) == ORIGIN
    checkpoint = StudentSettings(source="checkpoint", model=str(tmp_path))
    found = find_parent_origin(checkpoint, parent, recipe)
    assert found == {"model": str(tmp_path), "licence": "mit", "base_models": ["owner/small"]}
    assert find_parent_origin(StudentSettings(source="config", model=str(tmp_path)), parent, recipe) == {}


@pytest.fixture
def student(facts, make_tokenizer_directory):
    """A function that makes a student's directory, for texts or for chats."""

    def make(*, chat):
        more = {} if chat else {"template": None}
        directory = make_tokenizer_directory("student", tokenizer_class="PreTrainedTokenizerFast", **more)
        make_tiny_llama(vocab_size=340).save_pretrained(directory)
        facts["recipe"]["chat"]["template"] = "t" * 32 if chat else None
        write_card(directory, facts)
        return directory

    return make


def code_of(directory):
    return (directory / "README.md").read_text().partition("```python\n")[2].partition("```")[0]


@pytest.mark.slow
def test_the_snippet_of_a_card_runs_in_a_process_of_its_own(student):
    directory = student(chat=False)
    done = subprocess.run(
        [sys.executable, "-c", code_of(directory)], cwd=directory, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "The weather today is" in done.stdout


@pytest.mark.parametrize(("chat", "said"), [(False, "The weather today is"), (True, "How is the weather?")])
def test_the_snippet_of_a_card_runs(student, monkeypatch, capsys, chat, said):
    directory = student(chat=chat)
    monkeypatch.chdir(directory)
    exec(compile(code_of(directory), "card", "exec"), {})
    assert said in capsys.readouterr().out


def test_the_snippet_trusts_the_code_of_a_model_that_needs_it(facts):
    assert "trust_remote_code" not in snippet(facts)
    facts["settings"]["student"]["trust_remote_code"] = True
    assert snippet(facts).count("trust_remote_code=True") == 2
