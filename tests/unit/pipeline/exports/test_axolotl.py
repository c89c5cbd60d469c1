import math

import datasets
import pytest
import yaml


@pytest.fixture(scope="module")
def exported(any_lake, tmp_path_factory):
    """The stored rows by their ids, and those of the export as `datasets` reads them."""
    directory = tmp_path_factory.mktemp("export") / "axolotl"
    any_lake.export(directory, "axolotl")
    rows = datasets.load_dataset(str(directory), split="train", cache_dir=str(directory.parent))
    stored = any_lake.stored("levels", "input_ids", "target_ids", "head_codes").to_pylist()
    return {tuple(row["input_ids"]): row for row in stored}, list(rows), directory


def test_the_columns_hold_the_probabilities_of_the_lake_renormalised_where_mass_was_cut(exported):
    stored, rows, _ = exported
    assert len(rows) == len(stored)
    for row in rows:
        of_lake = stored[tuple(row["input_ids"])]
        for i, (ids, codes) in enumerate(zip(of_lake["target_ids"], of_lake["head_codes"], strict=True)):
            tails = ids[len(codes) :]
            unit = of_lake["levels"] if tails else sum(codes)
            expected = dict.fromkeys(ids, 0.0)
            for token, code in zip(ids, codes, strict=False):
                expected[token] += code / unit
            for token in tails:
                expected[token] += (unit - sum(codes)) / unit / len(tails)
            found = dict(zip(row["target_token_ids"][i], map(math.exp, row["target_logprobs"][i]), strict=True))
            assert found == pytest.approx({token: p for token, p in expected.items() if p}, rel=1e-5)
            assert row["target_mask"][i] == [1] * len(found)
            assert not found or sum(found.values()) == pytest.approx(1, abs=1e-5)


def test_labels_are_the_tokens_that_a_target_predicts(exported):
    stored, rows, _ = exported
    for row in rows:
        has_target = [bool(ids) for ids in stored[tuple(row["input_ids"])]["target_ids"]]
        expected = [-100] + [
            token if wanted else -100 for token, wanted in zip(row["input_ids"][1:], has_target, strict=False)
        ]
        assert row["labels"] == expected
        assert row["attention_mask"] == [1] * len(expected)


def test_the_settings_beside_the_data_do_not_renormalise_the_student(exported):
    *_, directory = exported
    settings = yaml.safe_load((directory / "axolotl.yaml").read_text())
    assert settings["kd_normalize_topk"] is False and settings["kd_temperature"] == 1.0
