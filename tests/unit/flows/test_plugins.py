"""The plug-ins of docs/plugins.md, installed beside logitlake, work through the ordinary commands."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaForCausalLM

from logitlake.pipeline.api import LossSettings, model_loss, open_rows, take_apart
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.registry import CORPORA, ENGINES, LOSSES, SPARSIFIERS
from tests.tiny_lake import text_of

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "plugins.md").read_text(encoding="utf-8")
MODULES = {re.match(r"# (\w+)\.py\n", code)[1]: code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)}
SHARE = 0.2

Command = Callable[..., str]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as pip leaves it: the modules of the page, and the metadata of their distribution."""
    directory = tmp_path_factory.mktemp("site-packages")
    for name, code in MODULES.items():
        (directory / f"{name}.py").write_text(code, encoding="utf-8")
    (project,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    groups = tomllib.loads(project)["project"]["entry-points"]
    lines = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    metadata = directory / "logitlake_toy-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: logitlake-toy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return directory


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs a command of logitlake in a process of its own; returns its standard output."""

    def run(*arguments: object, plugins: Path | None, code: int = 0) -> str:
        path = os.pathsep.join([str(Path.cwd()), *([str(plugins)] if plugins else [])])
        done = subprocess.run(
            [sys.executable, "-m", "logitlake", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    return run


@pytest.fixture
def settings(tmp_path: Path, raw_config: dict[str, Any]) -> dict[str, Any]:
    """The settings of the page over a tiny teacher and a table of sentences."""
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    toy = yaml.safe_load(example)
    rows = [f"{number};{text_of(number)}" for number in range(12)]
    (tmp_path / "documents.csv").write_text("\n".join(["number;text", *rows]), encoding="utf-8")
    raw = raw_config | {"corpora": toy["corpora"], "target": toy["target"]}
    raw["teacher"] = raw["teacher"] | {"engine": toy["teacher"]["engine"]}
    raw["training"] = raw["training"] | toy["training"]
    assert toy["target"]["share"] == SHARE
    return raw


@pytest.fixture
def in_this_process(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same distribution, seen by the registries of this process for the length of a test."""
    registries = (SPARSIFIERS, ENGINES, CORPORA, LOSSES)
    monkeypatch.syspath_prepend(installed)
    for registry in registries:
        registry.__dict__.pop("_providers", None)
    yield
    for registry in registries:
        registry.__dict__.pop("_providers", None)
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("in_this_process")
def test_targets_of_plug_ins_are_in_the_lake_and_make_a_loss(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_capture: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    config = Config.model_validate(settings)
    assert run_capture(config).n_documents == 12
    rows = open_rows(config.lake.path, batch_sequences=4)
    assert rows.recipe["sparsifier"] == {"name": "min_p", "share": SHARE, "max_k": 64}
    assert rows.recipe["teacher"]["engine"] == "plain"
    batch = next(iter(rows.reader))
    model = LlamaForCausalLM.from_pretrained(settings["teacher"]["model"], dtype=torch.float32)
    with torch.no_grad():
        loss = model_loss(take_apart(model), batch, LossSettings(loss="first_choice"))
        logits = model(batch.input_ids).logits.flatten(0, 1)
    first = batch.targets.offsets[:-1][batch.targets.offsets.diff() > 0]
    positions = batch.targets.offsets.diff().nonzero().squeeze(1)
    expected = torch.nn.functional.cross_entropy(logits[positions], batch.targets.ids[first])
    torch.testing.assert_close(loss, expected)


@pytest.mark.slow
def test_a_lake_filled_and_a_student_trained_by_plug_ins_alone(
    installed: Path, command: Command, settings: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    use = ("--config", file)

    plan = json.loads(command("plan", *use, "--format", "json", plugins=installed))
    assert plan["documents_new"] == 12, plan
    captured = json.loads(command("capture", *use, "--format", "json", plugins=installed))
    assert captured["n_documents"] == 12, captured

    def rows(query: str, plugins: Path | None, config: Path = file) -> list[dict[str, Any]]:
        return json.loads(command("sql", "--config", config, query, "--format", "json", plugins=plugins))

    # What was drawn is min-p: no head below its share of the first, and a head for every position with a target.
    (recipe,) = rows(
        """
        SELECT
            recipe_id, sparsifier, unbiased, cuts_mass, heads, recipe,
            (SELECT list(DISTINCT corpus || '/' || source) FROM sources) AS sources,
            (SELECT sum(n_targets)::BIGINT FROM sequences) AS n_targets, p.*
        FROM recipes, (
            SELECT count(*) AS positions, min(least_ratio) AS least_ratio, max(n) AS most FROM (
                SELECT min(probability) / max(probability) AS least_ratio, count(*) AS n
                FROM heads GROUP BY doc_id, window_index, position
            )
        ) AS p
        """,
        installed,
    )
    stored = recipe["recipe"] if isinstance(recipe["recipe"], dict) else json.loads(recipe["recipe"])
    assert stored["sparsifier"] == {"name": "min_p", "share": SHARE, "max_k": 64}
    assert stored["teacher"]["engine"] == "plain"
    assert [recipe[name] for name in ("unbiased", "cuts_mass", "heads")] == [False, True, "probabilities"]
    assert recipe["sources"] == ["table/documents.csv"]
    assert recipe["positions"] == recipe["n_targets"] > 0
    assert recipe["least_ratio"] >= SHARE * 0.99
    assert recipe["most"] > 1

    trained = command("train", *use, "--format", "json", plugins=installed)
    assert json.loads(trained)["student_id"]
    facts = json.loads((tmp_path / "student" / "logitlake.json").read_text(encoding="utf-8"))
    assert facts["settings"]["training"]["loss"] == "first_choice"
    assert facts["metrics"]["train_loss"] > 0

    # Without the plug-ins: a clear refusal of settings that name them, and a lake that is read and trained from.
    message = command("plan", *use, plugins=None, code=2)
    assert "unknown sparsifier 'min_p'" in message
    without = {name: settings[name] for name in ("lake", "student")}
    without["teacher"] = {name: value for name, value in settings["teacher"].items() if name != "engine"}
    without["training"] = settings["training"] | {
        "loss": "divergence",
        "output": str(tmp_path / "second"),
        "recipe": recipe["recipe_id"],
    }
    reader = tmp_path / "reader.yaml"
    reader.write_text(yaml.safe_dump(without), encoding="utf-8")
    (again,) = rows("SELECT sparsifier, unbiased FROM recipes", None, reader)
    assert again == {"sparsifier": "min_p", "unbiased": False}
    assert json.loads(command("train", "--config", reader, "--format", "json", plugins=None))["student_id"]
