import numpy as np
import pyarrow as pa
import pytest

from pipeline.flat_rows import FlatRows, gather
from pipeline.targets import TARGET_COLUMNS, make_batch
from storage.errors import IntegrityError


def same_batch(found, expected):
    assert found.input_ids.equal(expected.input_ids)
    assert found.next_ids.equal(expected.next_ids)
    assert found.targets.offsets.equal(expected.targets.offsets)
    assert found.targets.ids.equal(expected.targets.ids)
    assert found.targets.probs.equal(expected.targets.probs)
    assert (found.n_tokens, found.n_targets) == (expected.n_tokens, expected.n_targets)


def test_gathered_rows_are_the_rows_that_arrow_takes(make_rows):
    rows = make_rows([5, 17, 2, 9, 30])
    order = [3, 0, 3, 4]
    found = gather([(FlatRows.of(rows), np.array(order))])
    same_batch(make_batch(found), make_batch(rows.take(pa.array(order))))


def test_rows_are_gathered_from_several_tables_and_slices_in_order(make_rows):
    first, second = make_rows([5, 17, 2], seed=1), make_rows([9, 30, 4], seed=2).slice(1)
    found = gather([(FlatRows.of(first), np.array([2, 1])), (FlatRows.of(second), np.array([1, 0]))])
    expected = pa.concat_tables([first.take(pa.array([2, 1])), second.take(pa.array([1, 0]))])
    same_batch(make_batch(found), make_batch(expected))


def test_nothing_gathered_is_a_batch_without_targets(make_rows):
    same_batch(make_batch(gather([])), make_batch(make_rows([4]).select(list(TARGET_COLUMNS)).slice(0, 0)))


def test_taking_apart_copies_no_entries(make_rows):
    rows = make_rows([40, 40]).combine_chunks()
    leaves = rows["target_ids"].chunk(0).values.values.to_numpy()
    assert np.shares_memory(FlatRows.of(rows).ids, leaves)


@pytest.mark.parametrize("name", ["head_codes", "input_ids"])
def test_lists_of_different_lengths_are_refused(make_rows, name):
    rows, longer = make_rows([5]), make_rows([6])
    rows = rows.set_column(rows.schema.get_field_index(name), name, longer[name])
    with pytest.raises(IntegrityError, match="positions"):
        FlatRows.of(rows)
