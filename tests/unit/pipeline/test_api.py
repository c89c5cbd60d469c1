import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pyarrow as pa
import pytest
import torch

import logitlake.pipeline.api as api
from logitlake.pipeline.evaluation.evaluate import evaluate, held_out_rows
from logitlake.pipeline.reading.row_order import LENGTH_GROUP
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeError, SettingsError
from logitlake.storage.identity import document_id, held_out
from logitlake.storage.lake.lake import Lake
from logitlake.storage.upkeep.compaction import merge_small_tables
from logitlake.storage.upkeep.sweeping import sweep
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe
from logitlake.storage.writing.runs import note_run

RECIPE = {
    "teacher": {"name": "llama-1M", "weights": "w" * 32, "adapter": None},
    "tokenizer": "t" * 32,
    "vocabulary": 211,
    "temperature": 1.0,
    "sparsifier": {"name": "varopt", "threshold": 0.05},
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory, make_rows):
    return filled_lake(tmp_path_factory.mktemp("lake"), make_rows)


def filled_lake(path, make):
    """Two committed units, a quarter of their documents held out."""
    with Lake.create(LakeLocation.resolve(path), held_out_salt="s", held_out_share=0.25) as lake:
        recipe_id = register_recipe(lake, RECIPE)
        for number in range(2):
            rows = make([8, 12, 20, 9, 15, 30, 7, 11], seed=number, recipe_id=recipe_id)
            ids = pa.array([document_id(f"{number} {index}") for index in range(rows.num_rows)])
            rows = rows.set_column(rows.schema.get_field_index("doc_id"), rows.schema.field("doc_id"), ids)
            commit_unit(lake, rows, recipe=RECIPE, run_id="run", seconds=1.0)
    return path


def test_a_loop_of_ones_own_learns_from_a_lake(lake, tiny_llama):
    model = tiny_llama()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = api.open_rows(lake, batch_sequences=4)
    parts = api.take_apart(model)
    means = []
    for _ in range(4):
        losses = []
        for batch in rows.reader:
            loss = api.model_loss(parts, batch, api.LossSettings(temperature=rows.recipe["temperature"]))
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
    assert means[-1] < means[0] - 0.1


def test_held_out_documents_are_never_read_for_training(lake):
    every = {document_id(f"{number} {index}") for number in range(2) for index in range(8)}
    kept_apart = {doc_id for doc_id in every if held_out(doc_id, salt="s", share=0.25)}
    assert kept_apart
    trained, tested = (api.open_rows(lake, held_out=flag).row_set for flag in (False, True))
    with Lake.open(LakeLocation.resolve(lake)) as opened:
        seen = [
            set(api.lake_fetch(opened, rows)(rows.units["unit_id"].to_pylist(), ["doc_id"])["doc_id"].to_pylist())
            for rows in (trained, tested)
        ]
    assert seen == [every - kept_apart, kept_apart]


def test_a_reader_between_two_blocks_keeps_no_writer_and_no_upkeep_waiting(lake):
    row_set = api.open_rows(lake).row_set
    unit_ids = row_set.units["unit_id"].to_pylist()
    with Lake.open(LakeLocation.resolve(lake)) as opened:
        read = api.lake_fetch(opened, row_set)
        before = read(unit_ids, ["doc_id"])
        with Lake.open(LakeLocation.resolve(lake), read_only=False, lock_timeout=1) as writer:
            note_run(writer, "r", "started", kind="capture", recipe_id=None)
            merge_small_tables(writer)
            sweep(writer, grace=timedelta(0))
        assert read(unit_ids, ["doc_id"]).equals(before)


def test_threads_read_at_the_same_time_each_on_its_own_connection(lake):
    row_set = api.open_rows(lake).row_set
    unit_ids = row_set.units["unit_id"].to_pylist()
    with Lake.open(LakeLocation.resolve(lake)) as opened, ThreadPoolExecutor(4) as threads:
        read = api.lake_fetch(opened, row_set)
        found = list(threads.map(lambda _: read(unit_ids, ["doc_id", "checksum"]), range(40)))
    assert found[0].num_rows == row_set.n_sequences
    assert all(table.equals(found[0]) for table in found)


def test_a_filter_and_a_sampling_weight_are_sql(lake):
    long = api.open_rows(lake, where="n_tokens >= 15", batch_sequences=1)
    assert {batch.n_tokens for batch in long.reader} <= {15, 20, 30}
    weighted = api.open_rows(lake, weight="n_tokens - 7", batch_sequences=1)
    assert 7 not in {batch.n_tokens for batch in weighted.reader}
    assert sum(1 for _ in weighted.reader) == weighted.row_set.n_sequences


def test_rows_opened_again_come_in_the_same_order(lake):
    def order():
        return [batch.input_ids.tolist() for batch in api.open_rows(lake, batch_sequences=LENGTH_GROUP // 8).reader]

    assert order() == order()


def test_held_out_rows_of_a_lake_can_be_evaluated(lake, tiny_llama):
    rows = api.open_rows(lake, held_out=True)
    with Lake.open(LakeLocation.resolve(lake)) as opened:
        tables = held_out_rows(rows.row_set, api.lake_fetch(opened, rows.row_set))
        found = evaluate({"s": tiny_llama()}, tables, rows.recipe, autocast=False)
    assert found.students["s"].n_targets == rows.row_set.n_targets
    assert found.students["s"].kl is not None


def test_rows_that_are_not_there_are_named(lake, tmp_path):
    with pytest.raises(LakeError, match="ffff"):
        api.open_rows(lake, recipe="ffff")
    with pytest.raises(LakeError):
        api.open_rows(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"training\.where"):
        api.open_rows(lake, where="no_such_column > 1")


def test_every_name_of_the_api_is_there_and_documented():
    for name in api.__all__:
        found = getattr(api, name)
        assert name == "Fetch" or found.__doc__


def test_opening_rows_imports_neither_transformers_nor_the_losses():
    code = "import logitlake, sys; logitlake.open_rows; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    code += "; assert 'logitlake.pipeline.training' not in sys.modules and 'torch._dynamo' not in sys.modules"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in modules
    assert not {"transformers", "prefect", "peft", "accelerate"} & set(modules)


@pytest.mark.parametrize("where", ["named", "cache folder"])
def test_a_local_copy_is_made_where_it_is_asked_for(lake, tmp_path, monkeypatch, where):
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "local_copy" if where == "cache folder" else tmp_path / "named"
    rows = api.open_rows(lake, local_copy=True if where == "cache folder" else folder)
    epochs = [[batch.input_ids.tolist() for batch in rows.reader] for _ in range(2)]
    assert list(folder.rglob("*.rows"))
    plain = api.open_rows(lake).reader
    assert epochs == [[batch.input_ids.tolist() for batch in plain] for _ in range(2)]
