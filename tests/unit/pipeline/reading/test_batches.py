import numpy as np
import pyarrow as pa
import pytest

from logitlake.pipeline.reading.batches import NO_LABEL, TARGET_COLUMNS, make_batch
from logitlake.pipeline.targets.decoding import decode_targets
from logitlake.storage.errors import IntegrityError


def slow_decode(rows, cut_mass="renormalise"):
    """The format, read position by position with Python objects."""
    decoded = []
    for row in rows.to_pylist():
        for ids, codes in zip(row["target_ids"], row["head_codes"], strict=True):
            ids, codes, levels = ids or [], codes or [], row["levels"]
            residual = 1 - sum(codes) / levels
            n_tail = len(ids) - len(codes)
            heads = [code / levels for code in codes]
            if n_tail == 0 and sum(codes) and cut_mass == "renormalise":
                heads = [code / sum(codes) for code in codes]
            decoded.append(list(zip(ids, heads + [residual / n_tail] * n_tail if n_tail else heads, strict=True)))
    return decoded


def entries(ragged):
    return [
        list(zip(ragged.ids[begin:end].tolist(), ragged.probs[begin:end].tolist(), strict=True))
        for begin, end in zip(ragged.offsets[:-1], ragged.offsets[1:], strict=True)
    ]


def assert_same_entries(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert [i for i, _ in a] == [i for i, _ in b]
        assert [p for _, p in a] == pytest.approx([p for _, p in b], abs=1e-7)


@pytest.mark.parametrize("tail", [True, False])
def test_decoding_equals_reading_position_by_position(make_rows, tail):
    rows = make_rows([5, 17, 2, 9], tail=tail)
    assert_same_entries(entries(decode_targets(rows)), slow_decode(rows))


def test_every_target_with_heads_and_tail_sums_to_one(make_rows):
    ragged = decode_targets(make_rows([40, 40]))
    sums = np.add.reduceat(ragged.probs, ragged.offsets[:-1][np.diff(ragged.offsets) > 0])
    assert sums == pytest.approx(np.ones(len(sums)), abs=1e-6)


def test_duplicated_tail_ids_count_twice(make_rows):
    rows = make_rows([4], masked=0.0)
    ids, probs = zip(*entries(decode_targets(rows))[0], strict=True)
    assert len(set(ids)) == len(ids) - 1
    assert probs[-1] == probs[-2] == probs[-3]


def test_a_slice_of_a_table_decodes_to_the_slice_of_what_the_table_decodes_to(make_rows):
    rows = make_rows([5, 17, 2, 9, 30])
    assert_same_entries(entries(decode_targets(rows.slice(1, 3))), slow_decode(rows.slice(1, 3)))
    both = pa.concat_tables([rows.slice(3, 2), rows.slice(0, 1)])
    assert_same_entries(entries(decode_targets(both)), slow_decode(both))


def test_a_null_position_is_an_empty_one_even_if_it_owns_values():
    inner = pa.ListArray.from_arrays(
        pa.array([0, 1, 3, 3], pa.int32()), pa.array([7, 8, 9], pa.int32()), mask=pa.array([False, True, False])
    )
    codes = pa.ListArray.from_arrays(pa.array([0, 1, 1, 1], pa.int32()), pa.array([64], pa.uint16()))
    bounds = pa.array([0, 3], pa.int32())
    rows = pa.table(
        {
            "levels": pa.array([64], pa.int32()),
            "target_ids": pa.ListArray.from_arrays(bounds, inner),
            "head_codes": pa.ListArray.from_arrays(bounds, codes),
        }
    )
    assert entries(decode_targets(rows)) == [[(7, 1.0)], [], []]


def test_lists_with_64_bit_offsets_decode_the_same(make_rows):
    rows = make_rows([5, 9])
    wide = rows.set_column(
        rows.schema.get_field_index("target_ids"),
        "target_ids",
        rows["target_ids"].cast(pa.large_list(pa.large_list(pa.int32()))),
    )
    assert entries(decode_targets(wide)) == entries(decode_targets(rows))


def test_the_ghost_bucket_holds_exactly_the_mass_that_was_cut(make_rows):
    rows = make_rows([12], tail=False)
    ragged = decode_targets(rows, cut_mass="ghost")
    kept = np.array([sum(p for _, p in position) for position in entries(ragged)])
    has_target = np.diff(ragged.offsets) > 0
    assert (kept + ragged.ghost)[has_target] == pytest.approx(1.0)
    assert (ragged.ghost[~has_target] == 0).all()


def test_mass_of_exactly_one_needs_no_ghost_and_no_renormalising():
    rows = pa.table(
        {
            "levels": pa.array([4], pa.int32()),
            "target_ids": pa.array([[[3, 5], []]], pa.list_(pa.list_(pa.int32()))),
            "head_codes": pa.array([[[3, 1], []]], pa.list_(pa.list_(pa.uint16()))),
        }
    )
    for cut_mass in ("renormalise", "ghost"):
        ragged = decode_targets(rows, cut_mass=cut_mass)
        assert entries(ragged) == [[(3, 0.75), (5, 0.25)], []]
        assert ragged.ghost is None


def test_heads_above_one_are_refused(make_rows):
    rows = make_rows([6], masked=0.0)
    rows = rows.set_column(rows.schema.get_field_index("levels"), "levels", pa.array([2], pa.int32()))
    with pytest.raises(IntegrityError, match="sum above 1"):
        decode_targets(rows)


def test_a_batch_says_which_token_follows_each_target(make_rows):
    rows = make_rows([5, 9, 3])
    batch = make_batch(rows)
    assert batch.input_ids.shape == (3, 9)
    counts = batch.targets.offsets.diff().view(3, 9)
    for b, row in enumerate(rows.to_pylist()):
        for i in range(9):
            has_target = i < row["n_tokens"] and bool(row["target_ids"][i])
            assert counts[b, i] == (len(row["target_ids"][i]) if has_target else 0)
            assert batch.next_ids[b, i] == (row["input_ids"][i + 1] if has_target else NO_LABEL)
    assert batch.n_tokens == 17
    assert batch.n_targets == sum(rows["n_targets"].to_pylist())


def test_padding_has_no_target(make_rows):
    rows = make_rows([3, 20])
    counts = make_batch(rows).targets.offsets.diff().view(2, 20)
    assert (counts[0, 2:] == 0).all()


def test_a_target_after_the_last_token_is_refused():
    rows = pa.table(
        {
            "n_tokens": pa.array([2], pa.int32()),
            "n_targets": pa.array([1], pa.int32()),
            "levels": pa.array([4], pa.int32()),
            "input_ids": pa.array([[1, 2]], pa.list_(pa.int32())),
            "target_ids": pa.array([[[], [3]]], pa.list_(pa.list_(pa.int32()))),
            "head_codes": pa.array([[[], [4]]], pa.list_(pa.list_(pa.uint16()))),
        }
    )
    with pytest.raises(IntegrityError, match="after its last token"):
        make_batch(rows)


def test_no_rows_make_a_batch_without_targets(make_rows):
    batch = make_batch(make_rows([4]).select(list(TARGET_COLUMNS)).slice(0, 0))
    assert batch.input_ids.shape == (1, 2)
    assert batch.n_targets == batch.n_tokens == 0
    assert batch.targets.ids.numel() == 0


def test_ids_above_16_and_17_bits_survive(make_rows):
    rows = make_rows([30], vocab=200_000, seed=3)
    expected = [i for position in slow_decode(rows) for i, _ in position]
    assert max(expected) > 2**17
    assert decode_targets(rows).ids.tolist() == expected
