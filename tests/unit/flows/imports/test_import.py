"""Targets of another program into a lake, from the command line, and a student that learns from them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import logitlake.pipeline.api as api
from logitlake.flows.distill.run import DistillRun
from logitlake.flows.settings import location_of
from logitlake.pipeline.exports.export_format import find_export_format
from logitlake.pipeline.exports.write import export_in_format
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import SettingsError
from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE, SIGNAL_VARIABLE
from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.verification.verify import verify, verify_tables
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import find_recipe, register_recipe

RECIPE = {
    "teacher": {"name": "llama-1M", "weights": "w" * 32, "adapter": None},
    "tokenizer": "t" * 32,
    "temperature": 1.0,
    "sparsifier": {"name": "varopt", "threshold": 0.05},
}


@pytest.fixture(scope="session")
def original(tiny_teacher: Path, make_rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of 24 made-up documents, no two of which have the same ids; the tiny tokenizer has all of them."""
    directory = tmp_path_factory.mktemp("original") / "lake"
    vocabulary = TextTokenizer.load(tiny_teacher).vocab_size
    with Lake.create(LakeLocation.resolve(directory), held_out_salt="s", held_out_share=0.0) as lake:
        recipe = {**RECIPE, "vocabulary": vocabulary}
        rows = make_rows(
            [8 + number for number in range(24)], vocab=vocabulary, recipe_id=register_recipe(lake, recipe)
        )
        ids = pa.array([document_id(str(number)) for number in range(rows.num_rows)])
        rows = rows.set_column(rows.schema.get_field_index("doc_id"), rows.schema.field("doc_id"), ids)
        commit_unit(lake, rows, recipe=recipe, run_id="run", seconds=1.0)
    return directory


@pytest.fixture(scope="session")
def folders(original: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The rows of that lake in each format that can be imported."""
    made = {}
    with Lake.open(LakeLocation.resolve(original)) as lake:
        rows = resolve_row_set(lake, recipe_id=find_recipe(lake)[0])
        for name in ("distillkit", "axolotl"):
            made[name] = tmp_path_factory.mktemp("formats") / name
            export_in_format(lake, rows, made[name], find_export_format(name))
    return made


@pytest.fixture
def settings(raw_config: dict[str, Any], tiny_teacher: Path, tmp_path: Path) -> Path:
    """Settings of a lake that does not exist yet: a student from a checkpoint, and no teacher."""
    raw = {key: value for key, value in raw_config.items() if key not in ("teacher", "corpora")}
    raw["student"] = {"source": "checkpoint", "model": str(tiny_teacher)}
    raw["capture"] = {"unit_tokens": 100}
    path = tmp_path / "logitlake.yaml"
    path.write_bytes(orjson.dumps(raw))
    return path


@pytest.fixture
def imported(cli: Any, settings: Path, tiny_teacher: Path) -> Any:
    """Imports a folder; gives the record that the command prints."""

    def call(folder: Path, name: str, *more: object) -> dict[str, Any]:
        result = cli(*arguments(folder, name, tiny_teacher, settings), "--format", "json", *more)
        assert result.exit_code == 0, result.output
        record: dict[str, Any] = json.loads(result.stdout)
        return record

    return call


def arguments(folder: Path, name: str, tokenizer: Path, settings: Path) -> tuple[object, ...]:
    named = ("--from", name, "--teacher", "tiny llama", "--tokenizer", tokenizer)
    return ("import", folder, *named, "--config", settings)


def config_of(settings: Path) -> Config:
    return Config.model_validate(orjson.loads(settings.read_bytes()))


def is_whole(lake: Lake) -> bool:
    return not any(check.problem for check in (*verify(lake), *verify_tables(lake)))


@pytest.mark.parametrize("name", ["distillkit", "axolotl"])
def test_what_was_exported_comes_back_with_the_same_probabilities(
    imported: Any, folders: dict[str, Path], settings: Path, original: Path, name: str
) -> None:
    record = imported(folders[name], name)
    assert record["n_documents"] == record["documents_seen"] == 24
    query = "SELECT input_ids, target_ids, head_codes, levels FROM sequences"
    with Lake.open(location_of(config_of(settings))) as lake, Lake.open(LakeLocation.resolve(original)) as source:
        found = {tuple(row["input_ids"]): row for row in lake.sql(query).to_pylist()}
        for row in source.sql(query).to_pylist():
            mine = found[tuple(row["input_ids"])]
            for i in range(len(row["input_ids"])):
                expected, here = probabilities(row, i), probabilities(mine, i)
                for token in expected.keys() | here.keys():
                    assert here.get(token, 0) == pytest.approx(expected.get(token, 0), abs=2e-5)
        assert is_whole(lake)


def probabilities(row: dict[str, Any], i: int) -> dict[int, float]:
    ids, codes, levels = row["target_ids"][i], row["head_codes"][i], row["levels"]
    values = [code / levels for code in codes]
    tails = len(ids) - len(codes)
    values += [(1 - sum(codes) / levels) / tails] * tails if tails else []
    found: dict[int, float] = {}
    for token, value in zip(ids, values, strict=True):
        found[token] = found.get(token, 0) + value
    return found


def test_importing_again_adds_nothing_and_a_folder_that_grew_adds_its_new_rows(
    imported: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "grows"
    shutil.copytree(folders["axolotl"], folder)
    (file,) = (folder / "data").iterdir()
    rows = pq.read_table(file)
    pq.write_table(rows.slice(0, 8), file)
    first = imported(folder, "axolotl")
    assert first["n_documents"] == 8
    again = imported(folder, "axolotl")
    assert (again["n_documents"], again["documents_known"], again["recipe_id"]) == (0, 8, first["recipe_id"])
    pq.write_table(rows.slice(4, 6), folder / "data" / "more.parquet")
    grown = imported(folder, "axolotl")
    assert (grown["n_documents"], grown["documents_known"], grown["documents_repeated"]) == (2, 8, 4)


def test_imported_rows_say_that_they_are_biased_and_where_they_come_from(
    imported: Any, folders: dict[str, Path], settings: Path
) -> None:
    record = imported(folders["distillkit"], "distillkit", "--corpus", "from elsewhere")
    with Lake.open(location_of(config_of(settings))) as lake:
        recipe = lake.row("SELECT recipe_id, teacher, unbiased, cuts_mass, sparsifier, recipe FROM recipes")
        content = json.loads(recipe.pop("recipe"))
        assert recipe == {
            "recipe_id": record["recipe_id"],
            "teacher": "tiny llama",
            "unbiased": False,
            "cuts_mass": True,
            "sparsifier": "imported",
        }
        assert content["facts"]["teacher_gives"] == "top_k" and content["teacher"]["weights"] is None
        assert content["sparsifier"]["logprob_compressor"]["exact_dtype"] == "float32"
        source = lake.row("SELECT corpus, source, line FROM sources ORDER BY line")
        assert source == {"corpus": "from elsewhere", "source": "data/train-00000.parquet", "line": 1}
        assert lake.row("SELECT kind, status FROM runs") == {"kind": "import", "status": "finished"}
        heads = lake.row("SELECT count(*) AS n, count(token) AS named FROM heads")
        assert heads["n"] == heads["named"] > 0


def test_every_imported_target_is_a_position_also_where_the_real_token_is_no_entry(
    imported: Any, folders: dict[str, Path], settings: Path, tmp_path: Path
) -> None:
    """Left out, the teacher would seem to be always right."""
    shutil.copytree(folders["axolotl"], tmp_path / "top 1")
    (file,) = (tmp_path / "top 1" / "data").iterdir()
    rows = pq.read_table(file).to_pylist()
    for row in rows:
        for name in ("target_token_ids", "target_logprobs", "target_mask"):
            row[name] = [values[:1] for values in row[name]]
        # Of every row, the teacher was right at the first target only.
        first = next(i for i, ids in enumerate(row["target_token_ids"]) if ids)
        row["target_token_ids"][first] = [row["input_ids"][first + 1]]
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(file)), file)
    imported(tmp_path / "top 1", "axolotl")
    with Lake.open(location_of(config_of(settings))) as lake:
        held = lake.row("SELECT sum(n_targets)::BIGINT AS n FROM sequences")["n"]
        told = lake.row("SELECT count(*) AS n, avg(correct::INTEGER) AS right, count(logprob) AS known FROM positions")
        rank_1 = lake.row(
            "SELECT avg((h.token_id = s.input_ids[h.position - s.start + 1])::INTEGER) AS right FROM heads AS h "
            "JOIN sequences AS s USING (doc_id, recipe_id, window_index) WHERE h.rank = 1"
        )
        assert told["n"] == held > told["known"] > 0
        assert 0 < told["right"] < 1
        assert told["right"] == pytest.approx(rank_1["right"])


def test_a_loop_of_ones_own_learns_from_imported_rows(
    imported: Any, folders: dict[str, Path], settings: Path, tiny_llama: Any
) -> None:
    imported(folders["distillkit"], "distillkit")
    model = tiny_llama()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = api.open_rows(config_of(settings).lake.path, batch_sequences=32)
    parts, losses = api.take_apart(model), []
    for _ in range(4):
        for batch in rows.reader:
            loss = api.model_loss(parts, batch, api.LossSettings(temperature=rows.recipe["temperature"]))
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.slow
def test_a_student_learns_from_imported_rows_and_is_measured(
    imported: Any, folders: dict[str, Path], settings: Path, cli: Any
) -> None:
    imported(folders["distillkit"], "distillkit")
    config = config_of(settings)
    with DistillRun(config) as run:
        run.train()
        run.evaluate()
        run.commit()
    metrics = run.report.metrics
    assert np.isfinite(metrics["train"]["train_loss"])
    assert metrics["after"]["kl"] is None, "nothing tells the entropy of the teacher"
    assert np.isfinite(metrics["after"]["cross_entropy"]) and metrics["after"]["top1_agreement"] is not None
    for command in (("report", "--output", "page.html"), ("show", "lake"), ("show", "students"), ("show", "recipes")):
        result = cli(*command, "--config", settings)
        assert result.exit_code == 0, result.output


def test_a_student_can_not_be_cut_from_a_teacher_that_nobody_knows(
    imported: Any, folders: dict[str, Path], settings: Path
) -> None:
    imported(folders["axolotl"], "axolotl")
    raw = orjson.loads(settings.read_bytes()) | {"student": {"source": "teacher", "layers": 1}}
    with pytest.raises(SettingsError, match="were imported"), DistillRun(Config.model_validate(raw)):
        pass


def test_rows_that_can_not_be_used_are_rejected_with_the_reason(
    imported: Any, folders: dict[str, Path], settings: Path
) -> None:
    record = imported(folders["axolotl"], "axolotl", "--window", "20")
    assert record["documents_rejected"] and record["n_documents"]
    assert record["documents_rejected"] + record["n_documents"] == record["documents_seen"]
    with Lake.open(location_of(config_of(settings))) as lake:
        reasons = lake.sql("SELECT DISTINCT reason FROM rejects").to_pylist()
    assert reasons == [{"reason": "too_long"}]


def test_wrong_settings_are_named(
    cli: Any, folders: dict[str, Path], settings: Path, tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    wrong = {
        "expected one of distillkit, axolotl": arguments(folders["axolotl"], "trl", tiny_teacher, settings),
        "expected the column target_token_ids": arguments(folders["distillkit"], "axolotl", tiny_teacher, settings),
        "expected a folder, found nothing": arguments(Path("nowhere"), "axolotl", tiny_teacher, settings),
        "expected *.parquet": arguments(empty, "axolotl", tiny_teacher, settings),
    }
    for message, words in wrong.items():
        result = cli(*words)
        assert result.exit_code in (2, 3) and message in result.stderr, result.output


@pytest.mark.slow
def test_an_import_that_was_killed_goes_on(
    imported: Any, folders: dict[str, Path], settings: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    words = [str(word) for word in arguments(folders["axolotl"], "axolotl", tiny_teacher, settings)]
    places = (("file-staged", "SIGKILL"), ("transaction-open:2", "SIGINT"), ("committed:4", "SIGKILL"))
    for place, name in places:
        killed = subprocess.run(
            [sys.executable, "-m", "logitlake", *words],
            env=os.environ | {ENVIRONMENT_VARIABLE: place, SIGNAL_VARIABLE: name},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert killed.returncode == (130 if name == "SIGINT" else -signal.SIGKILL), killed.stderr
        assert "Traceback" not in killed.stderr
    record = imported(folders["axolotl"], "axolotl")
    assert (record["documents_known"], record["n_documents"]) == (16, 8)
    with Lake.open(location_of(config_of(settings))) as lake:
        counts = lake.row("SELECT count(*) AS n, count(DISTINCT doc_id) AS n_different FROM sequences")
        assert counts == {"n": record["documents_seen"], "n_different": record["documents_seen"]}
        assert is_whole(lake)
