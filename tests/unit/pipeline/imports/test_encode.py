from collections import defaultdict

import numpy as np
import pytest

from logitlake.pipeline.imports.encode import (
    ImportOrigin,
    check_alignment,
    check_rows,
    document_ids,
    encode_sparse_rows,
)
from logitlake.pipeline.imports.sparse_rows import SparseRows
from logitlake.pipeline.targets.arrow_lists import running_sums
from logitlake.storage.errors import CorpusError, MismatchError

ORIGIN = ImportOrigin(recipe_id="r" * 32, corpus="kd", source="a.parquet", seed=0)


def rows_of(*rows):
    """Rows from (tokens, targets), targets being a dict from id to probability for each token."""
    targets = [position for _, positions in rows for position in positions]
    return SparseRows(
        tokens=np.array([token for tokens, _ in rows for token in tokens], np.int32),
        row_offsets=running_sums(np.array([len(tokens) for tokens, _ in rows])),
        offsets=running_sums(np.array([len(position) for position in targets])),
        ids=np.array([token for position in targets for token in position], np.int64),
        probs=np.array([p for position in targets for p in position.values()], np.float64),
        lines=np.arange(1, len(rows) + 1),
    )


ROWS = rows_of(
    ([5, 6, 7], [{6: 0.5, 9: 0.25}, {8: 0.75, 1: 0.125}, {3: 1.0}]),
    ([5, 6], [{6: 1.0, 2: 0.0}, {}]),
)


def encoded(rows=ROWS):
    return encode_sparse_rows(rows, document_ids(rows), ORIGIN).to_pylist()


def test_targets_are_heads_whose_probabilities_are_those_of_the_file_to_one_level():
    first, second = encoded()
    assert first["target_ids"] == [[6, 9], [8, 1], []] and second["target_ids"] == [[6], []]
    for row, expected in ((first, [[0.5, 0.25], [0.75, 0.125], []]), (second, [[1.0], []])):
        for codes, probs in zip(row["head_codes"], expected, strict=True):
            assert np.array(codes) / row["levels"] == pytest.approx(np.array(probs), abs=1 / row["levels"])
    assert (first["n_targets"], second["n_targets"]) == (2, 1)


def test_entropy_is_unknown_and_the_real_token_is_known_where_it_is_among_the_entries():
    first, second = encoded()
    assert first["entropy_codes"] == [None] * 3 and first["mean_entropy"] is None
    assert first["nll_codes"] == [round(np.log(2) * 32), None, None]
    assert first["mean_nll"] is None, "of a row with an unknown token"
    assert second["nll_codes"] == [0, None] and second["mean_nll"] == 0


def test_the_identity_of_a_row_is_its_token_ids():
    other = rows_of(([5, 6, 7], [{6: 1.0}, {}, {}]), ([5, 6, 8], [{6: 1.0}, {}, {}]))
    assert document_ids(ROWS)[0] == document_ids(other)[0] != document_ids(other)[1]


def test_rounding_has_no_bias():
    """0.3 of a level, over many documents, is a code of 1 in three of ten."""
    rows = rows_of(*(([number, 1], [{1: 0.9, 2: 0.3 / 65535}, {}]) for number in range(4000)))
    codes = [sum(row["head_codes"][0][1:]) for row in encoded(rows)]
    assert np.mean(codes) == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 4000))


def test_an_id_that_stands_twice_becomes_one_and_probabilities_above_one_are_scaled():
    rows = rows_of(([1, 2], [{2: 0.6}, {}]))
    twice = SparseRows(
        tokens=rows.tokens,
        row_offsets=rows.row_offsets,
        offsets=np.array([0, 3, 3]),
        ids=np.array([4, 2, 4]),
        probs=np.array([0.3, 0.42, 0.33]),
        lines=rows.lines,
    )
    (row,) = encoded(twice)
    assert row["target_ids"] == [[4, 2], []]
    assert sum(row["head_codes"][0]) == row["levels"]
    assert row["head_codes"][0][0] / row["levels"] == pytest.approx(0.6, abs=1e-4)


def test_a_row_without_a_target_is_left_out():
    rows = rows_of(([1, 2], [{}, {3: 1.0}]), ([1, 3], [{3: 1.0}, {}]))
    assert [row["input_ids"] for row in encoded(rows)] == [[1, 3]]


def test_the_encoding_of_a_row_does_not_depend_on_the_others():
    rng = np.random.default_rng(0)
    positions = defaultdict(list)
    for row in range(5):
        positions[row] = [dict(zip(range(3, 9), rng.dirichlet(np.ones(8))[:6], strict=True)) for _ in range(4)]
    many = rows_of(*(([row, 4, 5, 6], positions[row]) for row in range(5)))
    single = rows_of(([2, 4, 5, 6], positions[2]))
    assert encoded(many)[2] == encoded(single)[0]


def test_ids_beyond_the_tokenizer_and_numbers_that_are_no_probabilities_are_refused():
    check_rows(ROWS, 10)
    with pytest.raises(MismatchError, match="ids below 9, as many as the tokenizer has, found 9"):
        check_rows(ROWS, 9)
    logits = rows_of(([1, 2], [{2: np.exp(3.0)}, {}]))
    with pytest.raises(CorpusError, match=r"found 20\.09"):
        check_rows(logits, 10)
    with pytest.raises(CorpusError, match="sum to 1 at most"):
        check_rows(rows_of(([1, 2], [{2: float("nan")}, {}])), 10)


def test_targets_that_are_shifted_by_a_position_are_found():
    tokens = np.random.default_rng(0).integers(0, 50, 200).tolist()
    check_alignment(rows_of((tokens, [{token: 0.5, 60: 0.4} for token in [*tokens[1:], 0]])))
    with pytest.raises(MismatchError, match="shifted by one"):
        check_alignment(rows_of((tokens, [{token: 0.5, 60: 0.4} for token in tokens])))
    check_alignment(rows_of((tokens, [{61: 0.5, 60: 0.4} for _ in tokens])))
