import datasets
import numpy as np
import pytest
import yaml

from logitlake.pipeline.exports.distillkit import _filled, index_bits
from logitlake.pipeline.exports.entries import MergedEntries, merged_entries
from logitlake.pipeline.exports.export_format import ExportContext, find_export_format
from logitlake.storage.errors import SettingsError


def decoded(row, compressor):
    """Ids and log-probabilities of every position, by DistillKit's layout: bits of the ids, the highest first, and the
    bytes of `exact_k` float32 numbers."""
    bits = (compressor["d"] - 1).bit_length()
    positions = []
    for packed, values in zip(row["bytepacked_indices"], row["compressed_logprobs"], strict=True):
        stream = "".join(f"{byte:08b}" for byte in packed)
        ids = [int(stream[at * bits : (at + 1) * bits], 2) for at in range(compressor["k"])]
        assert len(packed) == (compressor["k"] * bits + 7) // 8 and set(stream[compressor["k"] * bits :]) <= {"0"}
        positions.append((ids, np.frombuffer(bytes(values), "<f4")))
    return positions


@pytest.fixture(scope="module")
def exported(any_lake, tmp_path_factory):
    """The lake, the rows of its export, and the section that decodes them."""
    directory = tmp_path_factory.mktemp("export") / "distillkit"
    any_lake.export(directory, "distillkit")
    sections = yaml.safe_load((directory / "distillkit.yaml").read_text())
    rows = datasets.load_dataset(str(directory), split="train", cache_dir=str(directory.parent))
    return any_lake, list(rows), sections["teacher"]["logprob_compressor"]


def test_what_distillkit_decodes_are_the_probabilities_of_the_lake(exported):
    lake, rows, compressor = exported
    stored = lake.stored("levels", "input_ids", "target_ids", "head_codes")
    entries = merged_entries(stored, cut_mass="ghost")
    numbers = {tuple(ids): number for number, ids in enumerate(stored["input_ids"].to_pylist())}
    assert len(rows) == len(numbers)
    for row in rows:
        first = entries.row_offsets[numbers[tuple(row["input_ids"])]]
        for i, (ids, logprobs) in enumerate(decoded(row, compressor)):
            span = slice(entries.offsets[first + i], entries.offsets[first + i + 1])
            assert ids[: span.stop - span.start] == entries.ids[span].tolist()
            assert np.exp(logprobs[: span.stop - span.start]) == pytest.approx(entries.probs[span], rel=1e-6)
            assert (np.exp(logprobs[span.stop - span.start :].astype(np.float64)) < 1e-40).all()


def test_ids_of_a_position_differ_and_their_log_probabilities_fall(exported):
    _, rows, compressor = exported
    for row in rows:
        for ids, logprobs in decoded(row, compressor):
            assert len(set(ids)) == compressor["k"] and max(ids) < compressor["d"]
            assert (np.diff(logprobs) <= 0).all() and np.isfinite(logprobs).all()


def test_an_id_that_fills_a_position_up_is_none_of_its_own():
    entries = MergedEntries(
        row_offsets=np.array([0, 4]),
        offsets=np.array([0, 2, 3, 3, 7]),
        ids=np.array([2, 0, 9, 3, 1, 2, 0], np.int32),
        probs=np.array([0.5, 0.25, 1.0, 0.4, 0.3, 0.2, 0.1]),
    )
    ids, logprobs = _filled(entries, slice(0, 16), 4)
    assert ids.tolist() == [[2, 0, 1, 3], [9, 0, 1, 2], [0, 1, 2, 3], [3, 1, 2, 0]]
    assert np.exp(logprobs[:, 0]) == pytest.approx([0.5, 1.0, 0.0, 0.4])
    later, _ = _filled(entries, slice(1, 17), 4)
    assert later.tolist() == ids.tolist()[1:]


def test_a_position_is_masked_exactly_where_it_has_no_target(exported):
    lake, rows, _ = exported
    stored = lake.stored("input_ids", "target_ids").to_pylist()
    targets = {tuple(row["input_ids"]): [bool(ids) for ids in row["target_ids"]] for row in stored}
    for row in rows:
        has_target = targets[tuple(row["input_ids"])]
        assert row["labels"] == [
            token if wanted else -100 for token, wanted in zip(row["input_ids"], has_target, strict=True)
        ]


def test_targets_of_another_temperature_are_refused():
    context = ExportContext(recipe={"temperature": 2.0, "vocabulary": 9}, max_entries=0, split="train")
    with pytest.raises(SettingsError, match="expected targets at temperature 1, found 2"):
        find_export_format("distillkit").check(context)


@pytest.mark.parametrize(("vocabulary", "bits"), [(2, 1), (211, 8), (256, 8), (257, 9), (49_152, 16), (151_936, 18)])
def test_an_id_takes_as_many_bits_as_distillkit_gives_it(vocabulary, bits):
    assert index_bits(vocabulary) == bits
