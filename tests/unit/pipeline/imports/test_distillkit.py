"""The samples were written and decoded by DistillKit a61c2e7 (Apache-2.0) from random numbers."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from logitlake.pipeline.imports.distillkit import DISTILLKIT
from logitlake.pipeline.imports.distillkit_codec import LogprobCompressor, decode_logprobs, unpacked
from logitlake.storage.errors import CorpusError, SettingsError

SAMPLES = json.loads((Path(__file__).parent / "distillkit-a61c2e7.json").read_text())
# The float type that DistillKit itself computes in.
ERRORS = {"float32": 2e-6, "bfloat16": 5e-2, "float16": 1e-2}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample['compressor']['exact_dtype']}")
def test_what_distillkit_wrote_is_decoded_as_it_decodes_it(sample):
    compressor = LogprobCompressor.model_validate(sample["compressor"])
    found = decode_logprobs(np.array(sample["compressed_logprobs"], np.uint8), compressor)
    error = ERRORS[compressor.exact_dtype]
    assert found == pytest.approx(np.array(sample["logprobs"]), rel=error, abs=error)
    ids = unpacked(np.array(sample["bytepacked_indices"], np.uint8), compressor.index_bits, compressor.k)
    assert ids.tolist() == sample["ids"]
    assert compressor.index_bytes == len(sample["bytepacked_indices"][0])


@pytest.mark.parametrize("sample", SAMPLES[:2], ids=["float32", "bfloat16"])
def test_what_was_stored_exactly_is_exact(sample):
    found = decode_logprobs(
        np.array(sample["compressed_logprobs"], np.uint8), LogprobCompressor.model_validate(sample["compressor"])
    )
    assert found == pytest.approx(np.array(sample["logprobs"]), abs=1e-6)


@pytest.fixture
def reader(tmp_path):
    sections = {"teacher": {"kind": "dataset", "logprob_compressor": SAMPLES[0]["compressor"]}}
    (tmp_path / "distillkit.yaml").write_text(yaml.safe_dump(sections))
    return DISTILLKIT.open(tmp_path, None)


def sample_rows(**columns):
    lists = {name: [SAMPLES[0][name]] for name in ("compressed_logprobs", "bytepacked_indices")}
    return pa.table({"input_ids": [[7, 8, 9, 10]], **lists, **columns})


def test_a_row_may_have_targets_for_each_token_or_for_all_but_the_last(reader):
    all_but_last = reader.read(sample_rows())
    assert np.diff(all_but_last.offsets).tolist() == [5, 5, 5, 0]
    assert all_but_last.ids.reshape(3, 5).tolist() == SAMPLES[0]["ids"]
    assert np.log(all_but_last.probs).reshape(3, 5) == pytest.approx(np.array(SAMPLES[0]["logprobs"]), abs=1e-5)
    each = reader.read(sample_rows(input_ids=[[7, 8, 9]]))
    assert np.diff(each.offsets).tolist() == [5, 5, 5]
    with pytest.raises(CorpusError, match=r"each of its 5 tokens or all but the last, found 3"):
        reader.read(sample_rows(input_ids=[[7, 8, 9, 10, 11]]))


def test_a_packed_row_is_cut_where_the_mask_has_another_number_and_padding_is_dropped(reader):
    rows = reader.read(sample_rows(input_ids=[[7, 8, 9]], attention_mask=[[1, 2, 0]]))
    assert rows.row_offsets.tolist() == [0, 1, 2] and rows.tokens.tolist() == [7, 8]
    assert rows.lines.tolist() == [1, 1] and np.diff(rows.offsets).tolist() == [5, 5]


def test_a_position_with_a_negative_label_has_no_target(reader):
    rows = reader.read(sample_rows(labels=[[-100, 8, -100, 10]]))
    assert np.diff(rows.offsets).tolist() == [0, 5, 0, 0]
    assert rows.ids.tolist() == SAMPLES[0]["ids"][1]


def test_log_probabilities_that_are_not_compressed_need_no_settings(tmp_path):
    reader = DISTILLKIT.open(tmp_path, None)
    table = pa.table({"input_ids": [[1, 2]], "token_ids": [[[2, 3]]], "top_values": [[[-0.5, -float("inf")]]]})
    rows = reader.read(table)
    assert rows.probs == pytest.approx([np.exp(-0.5), 0.0])


def test_settings_that_do_not_fit_the_bytes_are_named(reader, tmp_path):
    with pytest.raises(CorpusError, match="expected 20 bytes a position by these settings, found 19"):
        lists = [[row[:-1] for row in SAMPLES[0]["compressed_logprobs"]]]
        reader.read(sample_rows(compressed_logprobs=lists))
    with pytest.raises(CorpusError, match="name the settings"):
        DISTILLKIT.open(tmp_path / "elsewhere", None).read(sample_rows())
    with pytest.raises(CorpusError, match="legacy"):
        reader.read(pa.table({"input_ids": [[1]], "packed_indices": [[[1]]]}))
    (tmp_path / "bad.yaml").write_text("logprob_compressor: {d: 9, k: 2, exact_k: 3, residual_bins: []}")
    with pytest.raises(SettingsError, match="exact_k: expected at most k = 2, found 3"):
        DISTILLKIT.open(tmp_path, tmp_path / "bad.yaml")
