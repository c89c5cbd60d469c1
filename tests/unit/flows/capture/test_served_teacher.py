"""A teacher behind a server, from settings to SQL, report, evaluation and training."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from typer.testing import Result

from logitlake.flows.capture.preparation import prepare
from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.reports import CaptureReport
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import SettingsError, TeacherUnavailableError
from logitlake.storage.lake.lake import Lake
from tests.bigram_server import BigramServer, Reply
from tests.tiny_lake import capture_all, tiny_settings
from tests.tiny_models import write_served_teacher

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def running_server(tokenizer_dir: Path) -> Iterator[BigramServer]:
    tokenizer = TextTokenizer.load(tokenizer_dir)
    logits_VV = 2.0 * np.random.default_rng(0).standard_normal((tokenizer.vocab_size, tokenizer.vocab_size))
    with BigramServer(logits_VV, tokenizer.backend).running() as server:
        yield server


@pytest.fixture
def bigram(running_server: BigramServer) -> Iterator[BigramServer]:
    running_server.requests.clear()
    yield running_server
    running_server.mishaps.clear()


def settings_of(directory: Path, server: BigramServer, tokenizer: Path, corpus: Path) -> dict[str, Any]:
    """A teacher of which only the tokenizer is here."""
    raw = tiny_settings(directory, tokenizer, corpus, output=str(directory / "student"))
    served = {"url": server.url, "model": "bigram", "max_retries": 0}
    raw["teacher"] = {"model": str(tokenizer), "engine": "server", "server": served}
    raw["target"] = {"sparsifier": "top_k", "k": 5}
    return raw


@pytest.fixture
def raw_config(tmp_path: Path, bigram: BigramServer, tokenizer_dir: Path, corpus_file: Path) -> dict[str, Any]:
    return settings_of(tmp_path, bigram, tokenizer_dir, corpus_file)


@pytest.fixture(scope="module")
def captured_once(
    tmp_path_factory: pytest.TempPathFactory, running_server: BigramServer, tokenizer_dir: Path, corpus_file: Path
) -> tuple[Path, CaptureReport]:
    directory = tmp_path_factory.mktemp("served")
    config = Config.model_validate(settings_of(directory, running_server, tokenizer_dir, corpus_file))
    return config.lake.path, capture_all(config)


@pytest.fixture
def captured(config: Config, captured_once: tuple[Path, CaptureReport]) -> CaptureReport:
    """The lake of `config`, filled: a copy, since a capture takes a second."""
    lake, report = captured_once
    shutil.copytree(lake, config.lake.path)
    return report


@pytest.fixture
def command(cli: Command, config_file: Path) -> Command:
    """A command with the settings of the served teacher."""
    return lambda *arguments: cli(*arguments, "--config", config_file)


def rows_of(config: Config, query: str) -> list[dict[str, Any]]:
    with Lake.open(location_of(config)) as lake:
        return lake.sql(query).to_pylist()


def test_sql_has_the_exact_log_probs_the_residual_mass_and_no_entropy(
    config: Config, captured: CaptureReport, bigram: BigramServer
) -> None:
    rows = rows_of(config, "SELECT * FROM positions ORDER BY doc_id, position")
    assert len(rows) == captured.n_targets > 400
    ids = {row["doc_id"]: row["input_ids"] for row in rows_of(config, "SELECT doc_id, input_ids FROM sequences")}
    for row in rows:
        before, real = ids[row["doc_id"]][row["position"] - 1 : row["position"] + 1]
        assert row["token_id"] == real
        assert row["logprob"] == pytest.approx(bigram.logprobs_VV[before, real], abs=1 / 64 + 1e-6)
        kept = np.sort(np.exp(bigram.logprobs_VV[before]))[-5:].sum()
        assert row["residual_mass"] == pytest.approx(1 - kept, abs=1e-4)
        assert row["entropy"] is None
        assert (row["n_heads"], row["n_tails"]) == (5, 0)


def test_sql_says_that_the_targets_are_biased_and_how_the_teacher_is_known(
    config: Config, captured: CaptureReport
) -> None:
    (recipe,) = rows_of(config, "SELECT * FROM recipes")
    known = {name: recipe[name] for name in ("teacher", "unbiased", "cuts_mass", "teacher_gives", "served_as")}
    assert known == {
        "teacher": "bigram",
        "unbiased": False,
        "cuts_mass": True,
        "teacher_gives": "top_k",
        "served_as": "bigram",
    }
    assert orjson.loads(recipe["recipe"])["teacher"]["dtype"] == "as served"


def test_the_recipe_does_not_depend_on_the_address_or_on_the_server_being_there(
    config: Config, raw_config: dict[str, Any], captured: CaptureReport, bigram: BigramServer
) -> None:
    raw_config["teacher"]["server"] |= {"url": "http://127.0.0.1:1/v1", "concurrency": 2}
    again = capture_all(Config.model_validate(raw_config))
    assert again.recipe_id == captured.recipe_id
    assert (again.n_units, again.documents_known) == (0, again.documents_seen)


@pytest.mark.parametrize("change", [{"version": "2026-11"}, {"model": "other"}])
def test_another_name_or_version_is_another_teacher(raw_config: dict[str, Any], change: dict[str, Any]) -> None:
    from logitlake.flows.capture.preparation import prepare

    one = prepare(Config.model_validate(raw_config)).recipe.recipe_id
    changed = {**raw_config["teacher"], "server": {**raw_config["teacher"]["server"], **change}}
    assert prepare(Config.model_validate({**raw_config, "teacher": changed})).recipe.recipe_id != one


def test_weights_that_lie_here_are_hashed_as_for_every_engine(raw_config: dict[str, Any], tiny_teacher: Path) -> None:
    from logitlake.flows.capture.preparation import prepare
    from logitlake.pipeline.model_files.files import resolve_teacher
    from logitlake.pipeline.settings.models import TeacherSettings

    raw_config["teacher"]["model"] = str(tiny_teacher)
    files = prepare(Config.model_validate(raw_config)).files
    assert files == resolve_teacher(TeacherSettings(model=str(tiny_teacher)))
    assert files.served_as is None


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({}, "target.sparsifier varopt: needs the whole distribution"),
        ({"sparsifier": "random"}, "target.sparsifier random: needs the whole distribution"),
        ({"sparsifier": "top_p"}, "target.sparsifier top_p: needs the whole distribution"),
        ({"sparsifier": "top_k", "temperature": 2}, "target.temperature 2: needs the whole distribution"),
        ({"sparsifier": "top_k", "target_bytes": 20}, "target.target_bytes 20: is chosen by a probe of whole"),
    ],
)
def test_targets_that_need_the_whole_distribution_are_refused_before_the_server_is_asked(
    raw_config: dict[str, Any], bigram: BigramServer, target: dict[str, Any], words: str
) -> None:
    config = Config.model_validate({**raw_config, "target": target})
    with pytest.raises(SettingsError, match=words) as caught, CaptureRun(config):
        pass
    assert "most probable ids" in str(caught.value)
    assert not bigram.requests


@pytest.mark.slow
def test_a_unit_that_failed_is_an_error_that_the_flow_retries_and_what_was_committed_stays(
    config: Config, bigram: BigramServer
) -> None:
    with pytest.raises(TeacherUnavailableError), CaptureRun(config) as run:
        for number in run.units():
            run.commit(run.compute(number))
            bigram.mishaps = [Reply(500)] * 10
    bigram.mishaps = []
    assert run.report.n_units == 1
    with CaptureRun(config) as run:
        for number in run.units():
            run.commit(run.compute(number))
    assert run.report.documents_known > 0
    assert rows_of(config, "SELECT count(*) AS n FROM (SELECT DISTINCT doc_id FROM sequences)") == [{"n": 30}]


def test_plan_tells_that_targets_are_biased_and_the_teacher_is_known_by_a_name(
    command: Command, bigram: BigramServer
) -> None:
    planned = command("plan")
    assert planned.exit_code == 0
    said = " ".join((planned.stdout + planned.stderr).split())
    assert "the targets are biased" in said
    assert "teacher bigram: known only by this name on the server" in said
    assert "of any server; --tokens-per-second sets it" in said
    assert not bigram.requests


@pytest.mark.slow
def test_the_report_and_the_screens_do_without_an_entropy(
    config: Config, captured: CaptureReport, command: Command, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    assert command("report", "--output", str(page)).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "no: the engine gives only the most probable ids" in text
    assert "Known only by a name on a server" in text
    assert "Surprise: minus the log-probability" in text
    assert "Entropy: how uncertain" not in text
    (document,) = rows_of(config, "SELECT doc_id FROM documents ORDER BY doc_id LIMIT 1")
    for arguments in (["show"], ["show", "document", document["doc_id"]], ["show", "recipes"], ["verify"]):
        shown = command(*arguments)
        assert shown.exit_code == 0, shown.output


def test_a_live_teacher_is_refused_where_the_whole_distribution_is_needed(
    config: Config, captured: CaptureReport, raw_config: dict[str, Any]
) -> None:
    from logitlake.flows.distill.evaluation import teacher_engine
    from logitlake.pipeline.settings.models import EvaluationSettings
    from logitlake.storage.writing.recipes import find_recipe

    with Lake.open(location_of(config)) as lake:
        _, recipe = find_recipe(lake)
    with pytest.raises(SettingsError, match="needs the whole distribution"):
        teacher_engine(EvaluationSettings(teacher=True), config.teacher, recipe)
    assert teacher_engine(EvaluationSettings(), config.teacher, recipe) is None


def test_a_student_is_not_cut_from_weights_that_only_the_server_has(config: Config, captured: CaptureReport) -> None:
    from logitlake.flows.distill.run import plan_student

    with pytest.raises(SettingsError, match=r"only the server of bigram has; set teacher.model to a directory"):
        plan_student(config)


def test_a_student_from_a_checkpoint_is_trained_and_measured_without_the_server(
    config: Config, captured: CaptureReport, raw_config: dict[str, Any], tiny_teacher: Path, tmp_path: Path
) -> None:
    from logitlake.flows.distill.run import DistillRun

    raw_config["teacher"]["server"]["url"] = "http://127.0.0.1:1/v1"
    raw_config["student"] = {"source": "checkpoint", "model": str(tiny_teacher)}
    raw_config["training"] |= {"max_steps": 2}
    with DistillRun(Config.model_validate(raw_config)) as run:
        run.train()
        run.evaluate()
        run.commit()
    after = run.report.metrics["after"]
    assert np.isfinite(after["cross_entropy"])
    # Neither the lake nor the server has what a KL needs.
    assert after["kl"] is None


def test_check_compares_ids_and_says_that_only_the_server_has_the_weights(command: Command) -> None:
    checked = command("check", "--documents", "2", "--format", "json")
    assert checked.exit_code == 4
    outcomes = {row["check"]: row for row in orjson.loads(checked.stdout)["checks"]}
    assert [outcomes[name]["result"] for name in ("ids", "labels", "probabilities")] == ["pass", "pass", "not compared"]
    assert "only the server of bigram has the weights" in outcomes["probabilities"]["detail"]


def test_check_finds_that_the_server_has_other_weights_than_the_files(
    raw_config: dict[str, Any], cli: Command, tmp_path: Path
) -> None:
    write_served_teacher(tmp_path / "teacher")
    raw_config["teacher"]["model"] = str(tmp_path / "teacher")
    path = tmp_path / "other.yaml"
    path.write_bytes(orjson.dumps(raw_config))
    checked = cli("check", "--documents", "2", "--format", "json", "--config", path)
    assert checked.exit_code == 4
    outcomes = {row["check"]: row for row in orjson.loads(checked.stdout)["checks"]}
    assert outcomes["probabilities"]["result"] == "differs"
    assert "other probabilities than plain transformers" in outcomes["probabilities"]["detail"]


def test_several_targets_are_refused_where_the_engine_gives_only_the_most_probable_ids(config: Config) -> None:
    several = Config.model_validate({**config.model_dump(), "targets": [{"sparsifier": "top_k", "k": 2}]})
    with pytest.raises(SettingsError, match=r"targets: teacher\.engine server gives only the most probable ids"):
        prepare(several)
