import json
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

import logitlake.pipeline.api as api
from logitlake.pipeline.exports.export_format import find_export_format
from logitlake.pipeline.exports.write import _shared_recipe, _write_file, export_in_format
from logitlake.storage.errors import IntegrityError, MismatchError, SettingsError


@pytest.fixture
def loaded(any_lake, tmp_path):
    """The export of a lake as `datasets` reads it."""
    any_lake.export(tmp_path / "hub", "huggingface")
    return any_lake, datasets.load_dataset(str(tmp_path / "hub"), split="train", cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("cut_mass", ["renormalise", "ghost"])
def test_batches_of_the_exported_data_set_give_the_loss_of_the_rows_in_the_lake(loaded, tiny_llama, cut_mass):
    lake, exported = loaded
    parts, settings = api.take_apart(tiny_llama()), api.LossSettings(temperature=1.0)
    stored = lake.stored("doc_id", "n_tokens", "n_targets", "levels", "input_ids", "target_ids", "head_codes")
    order = [exported["doc_id"].index(doc_id) for doc_id in stored["doc_id"].to_pylist()]
    expected = api.model_loss(parts, api.make_batch(stored, cut_mass=cut_mass), settings)
    batches = DataLoader(
        exported.select(order), batch_size=99, collate_fn=lambda rows: api.collate_rows(rows, cut_mass=cut_mass)
    )
    (batch,) = batches
    loss = api.model_loss(parts, batch, settings)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert batch.n_targets == sum(stored["n_targets"].to_pylist())


def test_the_exported_statistics_are_those_of_the_view(loaded):
    lake, exported = loaded
    view = lake.lake.sql("SELECT doc_id, position, entropy, logprob FROM statistics ORDER BY ALL").to_pylist()
    rows = {row["doc_id"]: row for row in exported}
    for point in view:
        row = rows.get(point["doc_id"])
        if row is not None:
            i = point["position"] - row["start"] - 1
            assert row["entropy"][i] == pytest.approx(point["entropy"])
            assert row["logprob"][i] == pytest.approx(point["logprob"])
    for row in rows.values():
        no_target = [not ids for ids in row["target_ids"]]
        assert [value is None for value in row["entropy"]] == no_target
        assert row["writer_logprob"] is None


def test_the_card_states_features_split_and_bias_and_leaves_the_licence_to_its_owner(any_lake, tmp_path):
    directory = any_lake.export(tmp_path / "hub", "huggingface")
    text = (directory / "README.md").read_text()
    builder = datasets.load_dataset_builder(str(directory), cache_dir=str(tmp_path / "cache"))
    assert builder.info.features["target_probs"] == datasets.List(datasets.List(datasets.Value("float32")))
    assert "license" not in text.split("---")[1] and "add `license:`" in text
    assert ("Unbiased" in text) == any_lake.recipe["facts"]["unbiased"]
    lineage = json.loads((directory / "lineage.json").read_text())
    assert lineage["content_hash"] == any_lake.rows().content_hash
    assert lineage["recipes"][any_lake.recipe_id] == any_lake.recipe


def test_held_out_documents_are_the_split_test(any_lake, tmp_path):
    any_lake.export(tmp_path / "held", "huggingface", held_out=True)
    found = datasets.load_dataset(str(tmp_path / "held"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in found.items()} == {"test": any_lake.rows(held_out=True).n_sequences}


def test_an_increment_leaves_the_files_of_earlier_commits_as_they_are(lake, tmp_path):
    before = files_of(lake.export(tmp_path / "before", "huggingface", file_tokens=1))
    lake.add([6, 16, 9, 21])
    after = files_of(lake.export(tmp_path / "after", "huggingface", file_tokens=1))
    assert len(after) == len(before) + 1 == 3
    assert {name: after[name] for name in before} == before


def test_a_row_that_vanishes_leaves_most_pages_of_its_file_as_they_are(tmp_path):
    values = np.random.default_rng(0).integers(0, 50_000, (3000, 800)).astype(np.int32)
    contents = []
    for kept in (values, np.delete(values, 10, axis=0)):
        _write_file(tmp_path / "file", [pa.table({"input_ids": pa.array(list(kept), pa.list_(pa.int32()))})])
        contents.append((tmp_path / "file").read_bytes())
    before, after = contents
    blocks = [before[at : at + 2048] for at in range(0, len(before), 16384)]
    assert sum(block in after for block in blocks) / len(blocks) > 0.8


def test_the_size_of_the_parts_that_are_converted_at_once_changes_no_row(any_lake, tmp_path):
    kind, tables = find_export_format("huggingface"), []
    for tokens in (1, 25, 10_000):
        parts = replace(kind, part_tokens=tokens)
        export_in_format(any_lake.lake, any_lake.rows(), tmp_path / str(tokens), parts)
        tables.append(pq.read_table(tmp_path / str(tokens) / "data"))
    assert tables[0].equals(tables[1]) and tables[1].equals(tables[2])


def test_a_sampling_weight_becomes_a_column(any_lake, tmp_path):
    any_lake.export(tmp_path / "hub", "huggingface", weight="n_tokens / 2")
    rows = pq.read_table(tmp_path / "hub" / "data").to_pylist()
    assert rows and all(row["weight"] == row["n_tokens"] / 2 for row in rows)


def test_rows_that_were_changed_on_disk_are_not_exported(any_lake, tmp_path, monkeypatch):
    from logitlake.pipeline.exports import write

    def changed(*arguments):
        rows = fetch(*arguments)
        return rows.set_column(rows.schema.get_field_index("levels"), "levels", [[65] * rows.num_rows])

    fetch = write.fetch
    monkeypatch.setattr(write, "fetch", changed)
    with pytest.raises(IntegrityError, match="logitlake verify"):
        any_lake.export(tmp_path / "hub", "huggingface")
    assert not (tmp_path / "hub").exists()


def test_rows_of_two_temperatures_are_refused():
    warm = {"tokenizer": "t", "temperature": 2.0}
    with pytest.raises(MismatchError, match=r"one temperature, found 1\.0, 2\.0"):
        _shared_recipe({"a": {**warm, "temperature": 1.0}, "b": warm})


def test_rows_that_do_not_fit_are_refused_by_name():
    good = {"input_ids": [1, 2], "target_ids": [[2], []], "target_probs": [[1.0], []]}
    assert api.collate_rows([good]).n_targets == 1
    for change, message in (
        ({"target_probs": [[0.5, 0.5], []]}, "as many ids"),
        ({"target_ids": [[2]], "target_probs": [[1.0]]}, "as many positions"),
        ({"target_ids": [[], [2]], "target_probs": [[], [1.0]]}, "after the last token"),
    ):
        with pytest.raises(SettingsError, match=message):
            api.collate_rows([{**good, **change}])
    with pytest.raises(SettingsError, match="column target_probs, found input_ids, target_ids"):
        api.collate_rows([{name: good[name] for name in ("input_ids", "target_ids")}])


def test_mass_that_was_cut_goes_where_it_is_told_to_go():
    row = {"input_ids": [1, 2, 3], "target_ids": [[2, 3], [3], []], "target_probs": [[0.5, 0.25], [1.0], []]}
    renormalised, ghost = (api.collate_rows([row], cut_mass=name).targets for name in ("renormalise", "ghost"))
    assert torch.allclose(renormalised.probs, torch.tensor([2 / 3, 1 / 3, 1]))
    assert torch.allclose(ghost.probs, torch.tensor([0.5, 0.25, 1])) and ghost.ghost.tolist() == [0.25, 0, 0]


def files_of(directory):
    return {path.name: path.read_bytes() for path in sorted((directory / "data").iterdir())}
