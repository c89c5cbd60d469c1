"""What a benchmark looks at is fixed by hash: neither order nor company of the rows matters."""

import numpy as np
import pyarrow as pa

from benchmarks.sample import in_batches, sequences_of, single_windows, whole_documents
from logitlake.pipeline.tokens.sequences import TokenSequence


def rows() -> pa.Table:
    n = 40
    lengths = [5 + i % 3 for i in range(n)]
    return pa.table(
        {
            "doc_id": [f"document {i // 4}" for i in range(n)],
            "window_index": pa.array([i % 4 for i in range(n)], pa.int32()),
            "start": pa.array([(i % 4) * 4 for i in range(n)], pa.int32()),
            "n_targets": pa.array([length - 1 for length in lengths], pa.int32()),
            "input_ids": pa.array([list(range(length)) for length in lengths], pa.list_(pa.int32())),
            "target_ids": pa.array([[[1]] * (length - 1) + [[]] for length in lengths], pa.list_(pa.list_(pa.int32()))),
        }
    )


def test_sample_does_not_depend_on_the_order_of_the_rows() -> None:
    mixed = rows().take(pa.array(np.random.default_rng(0).permutation(40)))
    for choose in (whole_documents, single_windows):
        keys = [
            set(zip(*choose(table, 60).select(["doc_id", "window_index"]).to_pydict().values(), strict=True))
            for table in (rows(), mixed)
        ]
        if choose is single_windows:
            assert keys[0] == keys[1]
        assert {doc_id for doc_id, _ in keys[0]} == {doc_id for doc_id, _ in keys[1]}


def test_single_windows_come_from_more_documents_than_whole_ones() -> None:
    counts = [len(set(choose(rows(), 60)["doc_id"].to_pylist())) for choose in (whole_documents, single_windows)]
    assert counts[0] < counts[1]


def test_sequences_have_targets_where_the_rows_do_and_no_more_than_asked_for() -> None:
    sequences = sequences_of(rows())
    assert [s.has_target.tolist() for s in sequences[:2]] == [[True] * 4 + [False], [True] * 5 + [False]]
    assert [s.input_ids.tolist() for s in sequences[:1]] == [[0, 1, 2, 3, 4]]
    assert sum(s.has_target.sum() for s in sequences_of(rows(), 7)) == 7


def test_batches_keep_the_order_and_the_bound() -> None:
    sequences = sequences_of(rows())
    batches = in_batches(sequences, 12)
    assert [s for batch in batches for s in batch] == sequences
    assert all(sum(len(s.input_ids) for s in batch) <= 12 for batch in batches)
    long = TokenSequence("d", 0, 0, np.zeros(50, np.int32), np.zeros(50, np.bool_))
    assert in_batches([long], 12) == [[long]]
