import numpy as np
import pyarrow as pa
import pytest

from logitlake.pipeline.reading.batches import batch_of, make_batch
from logitlake.pipeline.targets.decoding import DecodedTable
from logitlake.storage.errors import IntegrityError


def same_batch(found, expected):
    assert found.input_ids.equal(expected.input_ids)
    assert found.next_ids.equal(expected.next_ids)
    assert found.targets.offsets.equal(expected.targets.offsets)
    assert found.targets.ids.equal(expected.targets.ids)
    assert found.targets.probs.equal(expected.targets.probs)
    assert (found.n_tokens, found.n_targets) == (expected.n_tokens, expected.n_targets)


def test_picked_rows_are_the_rows_that_arrow_takes(make_rows):
    rows = make_rows([5, 17, 2, 9, 30])
    order = [3, 0, 3, 4]
    picked = DecodedTable.of(rows, cut_mass="renormalise").rows(np.array(order))
    same_batch(batch_of(picked), make_batch(rows.take(pa.array(order))))


def test_rows_are_picked_from_chunks_and_slices_in_order(make_rows):
    first, second = make_rows([5, 17, 2], seed=1), make_rows([9, 30, 4], seed=2).slice(1)
    both = DecodedTable.of(pa.concat_tables([first, second]), cut_mass="renormalise")
    expected = pa.concat_tables([first.take(pa.array([2, 1])), second.take(pa.array([1, 0]))])
    same_batch(batch_of(both.rows(np.array([2, 1, 4, 3]))), make_batch(expected.combine_chunks()))


def test_a_ghost_bucket_of_some_rows_is_nothing_for_the_others(make_rows):
    cut, whole = make_rows([6], tail=False), make_rows([9])
    table = DecodedTable.of(pa.concat_tables([cut, whole]), cut_mass="ghost")
    ghost = batch_of(table.rows(np.arange(2))).targets.ghost.view(2, 9)
    assert ghost[0].sum() > 0
    assert ghost[1].sum() == 0


def test_decoding_copies_no_ids(make_rows):
    rows = make_rows([40, 40]).combine_chunks()
    leaves = rows["target_ids"].chunk(0).values.values.to_numpy()
    (chunk,) = DecodedTable.of(rows, cut_mass="renormalise").chunks
    assert np.shares_memory(chunk.ids, leaves)


@pytest.mark.parametrize("name", ["head_codes", "input_ids"])
def test_lists_of_different_lengths_are_refused(make_rows, name):
    rows, longer = make_rows([5]), make_rows([6])
    rows = rows.set_column(rows.schema.get_field_index(name), name, longer[name])
    with pytest.raises(IntegrityError, match="positions"):
        make_batch(rows)
