import numpy as np
import pytest

from logitlake.pipeline.targets.encoding import RowOrigin, encode_rows
from logitlake.pipeline.targets.sparsifiers.blocks import Statistics
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.storage.schema.sequences import CAPTURED

ORIGIN = RowOrigin(recipe_id="r", corpora=["c1", "c2"], sources=["s1", "s2"])


def sequence(doc_id: str, ids: list[int], has_target: list[int], window: int = 0, start: int = 0) -> TokenSequence:
    return TokenSequence(doc_id, window, start, np.array(ids, np.int32), np.array(has_target, bool))


def three_targets() -> tuple[CodedTargets, Statistics]:
    targets = CodedTargets(
        id_offsets=np.array([0, 3, 4, 6]),
        ids=np.array([70_000, 2, 2, 9, 5, 6], np.int32),
        code_offsets=np.array([0, 1, 2, 2]),
        codes=np.array([60, 64], np.uint16),
        levels=64,
    )
    return targets, Statistics(entropy=np.array([1.0, 0.51, 3.0]), nll=np.array([0.25, np.inf, 0.0]))


def test_entry_i_of_a_row_is_the_target_of_token_i_plus_1_and_empty_where_there_is_none() -> None:
    sequences = [sequence("a", [10, 11, 12, 13], [1, 0, 1, 0]), sequence("b", [20, 21], [1, 0], window=3, start=448)]
    rows = encode_rows(sequences, *three_targets(), ORIGIN)
    assert rows.schema == CAPTURED
    first, second = rows.to_pylist()
    assert first["target_ids"] == [[70_000, 2, 2], [], [9], []]
    assert first["head_codes"] == [[60], [], [64], []]
    assert first["entropy_codes"] == [32, None, 16, None]
    assert first["nll_codes"] == [8, None, 65535, None]
    assert (first["n_tokens"], first["n_targets"], first["levels"]) == (4, 2, 64)
    assert (first["corpus"], first["source"]) == ("c1", "s1")
    assert first["input_ids"] == [10, 11, 12, 13]
    assert second["target_ids"] == [[5, 6], []]
    assert second["head_codes"] == [[], []]
    assert (second["window_index"], second["start"], second["source"]) == (3, 448, "s2")
    assert second["mean_entropy"] == 3.0


def test_means_are_exact_not_of_the_rounded_codes() -> None:
    sequences = [sequence("a", [10, 11, 12, 13], [1, 0, 1, 0]), sequence("b", [20, 21], [1, 0])]
    rows = encode_rows(sequences, *three_targets(), ORIGIN)
    assert rows["mean_entropy"].to_pylist()[0] == pytest.approx(0.755)


def test_a_sequence_without_any_target_has_null_means() -> None:
    sequences = [sequence("a", [10, 11, 12, 13], [1, 1, 1, 0]), sequence("b", [20, 21], [0, 0])]
    row = encode_rows(sequences, *three_targets(), ORIGIN).to_pylist()[1]
    assert row["mean_entropy"] is None
    assert row["mean_nll"] is None
    assert row["target_ids"] == [[], []]
    assert row["entropy_codes"] == [None, None]


def test_targets_that_do_not_match_the_positions_are_refused() -> None:
    sequences = [sequence("a", [10, 11], [1, 0]), sequence("b", [20, 21], [1, 0])]
    with pytest.raises(ValueError, match="expected 2 targets, found 3"):
        encode_rows(sequences, *three_targets(), ORIGIN)


def test_log_probabilities_may_be_stored_in_finer_steps_which_the_row_names() -> None:
    sequences = [sequence("a", [10, 11, 12, 13], [1, 0, 1, 0]), sequence("b", [20, 21], [1, 0])]
    targets, _ = three_targets()
    statistics = Statistics(entropy=np.array([1.0, 0.51, 3.0]), nll=np.array([0.2501, 64.5, 0.0]))
    fine = encode_rows(sequences, targets, statistics, ORIGIN, nll_steps_per_nat=1024)
    assert fine["nll_steps_per_nat"].to_pylist() == [1024, 1024]
    assert fine["nll_codes"].to_pylist() == [[256, None, 65535, None], [0, None]]
    assert fine["entropy_codes"].to_pylist() == [[32, None, 16, None], [96, None]]
    coarse = encode_rows(sequences, targets, statistics, ORIGIN)
    assert coarse["nll_steps_per_nat"].to_pylist() == [None, None]
    assert coarse["nll_codes"].to_pylist() == [[8, None, 2064, None], [0, None]]
    assert coarse["mean_nll"].to_pylist() == fine["mean_nll"].to_pylist()


def test_a_row_of_a_document_leaves_the_columns_of_a_trace_null() -> None:
    sequences = [sequence("a", [10, 11, 12, 13], [1, 0, 1, 0]), sequence("b", [20, 21], [1, 0])]
    rows = encode_rows(sequences, *three_targets(), ORIGIN)
    for name in CAPTURED.names[CAPTURED.get_field_index("writer") :]:
        assert rows[name].null_count == rows.num_rows, name
