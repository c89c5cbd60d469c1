import threading
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch

from logitlake.pipeline.reading.reader import RowSetReader
from logitlake.pipeline.reading.row_order import LENGTH_GROUP, Draw, UnitWeights, order_rows, plan_blocks
from logitlake.storage.errors import IntegrityError, LakeError, MismatchError, SettingsError


@pytest.fixture
def lake(memory_lake):
    rng = np.random.default_rng(5)
    return memory_lake([rng.integers(2, 20, n).tolist() for n in (5, 9, 1, 12, 7, 3)])


def rows_of(batch):
    """Numbers of the rows in a batch; a batch of padding alone has none."""
    return batch.input_ids[:, 0].tolist() if batch.n_tokens else []


def epoch_of(reader):
    return [rows_of(batch) for batch in reader]


def flat(batches):
    return [row for batch in batches for row in batch]


def test_every_row_is_seen_exactly_once_in_an_epoch(lake):
    assert sorted(flat(epoch_of(lake.reader()))) == list(range(37))


def test_the_order_is_the_same_again_and_differs_by_epoch_and_seed(lake):
    first = epoch_of(lake.reader())
    assert epoch_of(lake.reader()) == first
    reader = lake.reader()
    epoch_of(reader)
    assert flat(epoch_of(reader)) != flat(first)
    assert flat(epoch_of(lake.reader(seed=1))) != flat(first)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_the_order_is_the_same_on_any_number_of_ranks(lake, world_size):
    alone = flat(epoch_of(lake.reader(batch_sequences=12)))
    size = 4
    ranks = [epoch_of(lake.reader(batch_sequences=size, rank=r, world_size=world_size)) for r in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    assert flat(flat(batches) for batches in zip(*ranks, strict=True)) == alone


def test_a_rank_without_rows_gets_a_batch_without_targets(lake):
    last = [list(lake.reader(batch_sequences=4, rank=r, world_size=9))[-1] for r in range(9)]
    assert [len(rows_of(batch)) for batch in last].count(0) == 8
    assert len({batch.step_targets for batch in last}) == 1
    assert sum(batch.n_targets for batch in last) == last[0].step_targets > 0


def test_every_rank_knows_the_targets_of_the_whole_step(lake):
    ranks = [list(lake.reader(rank=r, world_size=3)) for r in range(3)]
    for batches in zip(*ranks, strict=True):
        assert {batch.step_targets for batch in batches} == {sum(batch.n_targets for batch in batches)}


@pytest.mark.parametrize("stop", [0, 1, 4, 9, 10])
def test_resuming_inside_an_epoch_skips_nothing_and_repeats_nothing(lake, stop):
    whole = epoch_of(lake.reader())
    reader = lake.reader()
    iterator = iter(reader)
    before = [rows_of(next(iterator)) for _ in range(stop)]
    state = reader.state_dict()
    iterator.close()
    resumed = lake.reader()
    resumed.load_state_dict(state)
    resumed.set_epoch(state["epoch"])
    assert before + epoch_of(resumed) == whole


def test_resuming_reads_no_block_that_was_finished(lake):
    reader = lake.reader()
    reader.load_state_dict(reader.state_dict() | {"step": 9, "row": 36})
    lake.fetched.clear()
    epoch_of(reader)
    assert sum(lake.units[unit].num_rows for units in lake.fetched for unit in units) < 37 / 2


SIZES = pytest.mark.parametrize(
    "size",
    [{"batch_sequences": 1}, {"batch_sequences": 1, "accumulation": 2}, {"step_tokens": 50, "batch_tokens": 30}],
)


def steps_of(readers):
    """The rows of each step, those of all ranks, and its number of targets."""
    steps = []
    for reader in readers:
        own, rows, n_targets, count = [], [], 0, 0
        for batch in reader:
            rows, n_targets, count = rows + rows_of(batch), n_targets + batch.n_targets, count + 1
            if batch.ends_step:
                own.append((rows, n_targets, count, batch.step_targets))
                rows, n_targets, count = [], 0, 0
        assert not count
        steps.append(own)
    for ranks in zip(*steps, strict=True):
        assert len({count for _, _, count, _ in ranks}) == 1, "each rank takes part in each forward"
        assert {whole for *_, whole in ranks} == {sum(n_targets for _, n_targets, _, _ in ranks)}
    return [sorted(flat(rows for rows, *_ in ranks)) for ranks in zip(*steps, strict=True)]


@pytest.mark.parametrize("weight", [None, "mean_nll"])
@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_even_steps_hold_the_same_rows_on_any_number_of_ranks(lake, world_size, weight):
    if weight:
        lake.weights = np.random.default_rng(1).gamma(1.0, size=37).tolist()
    size = {"step_tokens": 50, "batch_tokens": 30, "weight": weight}
    alone = lake.reader(**size, batch_sequences=None)
    ranks = [lake.reader(**size, batch_sequences=None, rank=r, world_size=world_size) for r in range(world_size)]
    for _ in range(2):
        expected = steps_of([alone])
        assert len(expected) == len(alone)
        assert steps_of(ranks) == expected
        assert len(flat(expected)) == 37
        assert weight or sorted(flat(expected)) == list(range(37))


@SIZES
@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (2, 3), (8, 2)])
def test_resuming_on_another_number_of_ranks_goes_on_with_exactly_the_rows_that_are_left(
    lake, size, step, before, after
):
    def readers(count):
        return [lake.reader(**{"batch_sequences": None} | size, rank=r, world_size=count) for r in range(count)]

    whole = steps_of(readers(before))
    states = []
    for reader in readers(before):
        iterator = iter(reader)
        for _ in range(step):
            while not next(iterator).ends_step:
                pass
        states.append(reader.state_dict())
        iterator.close()
    assert all(state == states[0] for state in states)
    resumed = readers(after)
    for reader in resumed:
        reader.load_state_dict(states[0])
    assert len(resumed[0]) == len(whole)
    assert steps_of(resumed) == whole[step:]
    again = readers(before)
    for reader in again:
        reader.load_state_dict(states[0])
    steps_of(again)
    assert steps_of(resumed) == steps_of(again), "the next epoch has steps of the same size"


def test_the_state_inside_a_step_is_the_start_of_that_step(lake):
    reader = lake.reader(batch_sequences=2, accumulation=3)
    batches = iter(reader)
    for _ in range(5):
        next(batches)
    assert reader.state_dict()["row"] == 6
    batches.close()


def test_a_state_of_an_older_logitlake_goes_on_at_its_row(lake):
    """It counted the batches of all ranks."""
    whole = steps_of([lake.reader(batch_sequences=2, accumulation=3)])
    state = {"row_set_id": "s" * 32, "seed": 0, "epoch": 0, "batch": 6, "global_batch_sequences": 2}
    reader = lake.reader(batch_sequences=2, accumulation=3)
    reader.load_state_dict(state)
    assert steps_of([reader]) == whole[2:]


@pytest.mark.parametrize("other", [{"batch_sequences": 4}, {"batch_sequences": None, "step_tokens": 51}])
def test_a_state_of_steps_of_another_number_of_tokens_is_refused(lake, other):
    reader = lake.reader(batch_sequences=None, step_tokens=50)
    with pytest.raises(MismatchError, match=r"counts steps of step_.*this reader's are of step_tokens 50"):
        reader.load_state_dict(lake.reader(**other).state_dict())


@pytest.mark.parametrize("name", ["row_set_id", "seed"])
def test_the_state_of_another_row_set_or_seed_is_refused(lake, name):
    reader = lake.reader()
    with pytest.raises(MismatchError, match=name):
        reader.load_state_dict(reader.state_dict() | {name: 99})


def test_the_next_epoch_follows_by_itself_and_set_epoch_goes_anywhere(lake):
    reader = lake.reader()
    first, second = epoch_of(reader), epoch_of(reader)
    other = lake.reader()
    other.set_epoch(1)
    assert epoch_of(other) == second
    other.set_epoch(0)
    assert epoch_of(other) == first


def test_a_batch_knows_the_targets_of_its_whole_step(lake):
    batches = list(lake.reader(accumulation=4))
    assert [batch.ends_step for batch in batches] == [False, False, False, True] * 2 + [False, True]
    for step in (batches[:4], batches[4:8], batches[8:]):
        assert {batch.step_targets for batch in step} == {sum(batch.n_targets for batch in step)}


def test_targets_stay_with_their_tokens(lake):
    """Joined by content: whichever batch a row is in, its targets are the ones that were stored with it."""
    stored = {row["input_ids"][0]: row for table in lake.units.values() for row in table.to_pylist()}
    for batch in lake.reader(seed=3):
        T = batch.input_ids.shape[1]
        for b, number in enumerate(rows_of(batch)):
            for i, ids in enumerate(stored[number]["target_ids"]):
                low, high = batch.targets.offsets[b * T + i : b * T + i + 2].tolist()
                assert batch.targets.ids[low:high].tolist() == ids


def test_rows_of_similar_length_stand_together():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 100, LENGTH_GROUP * 20)
    order = order_rows(lengths, None, block=0, draw=Draw(seed=0, epoch=0, row_set_id="x"))
    ordered = lengths[order].reshape(-1, 8)
    padded = ordered.max(1).sum() * 8
    assert padded < 1.06 * lengths.sum()
    assert sorted(order.tolist()) == list(range(len(lengths)))


def test_blocks_hold_no_more_tokens_than_they_may(lake):
    rows, tokens = np.array([3] * 9), np.array([10, 20, 50, 10, 10, 30, 5, 5, 70])
    blocks = plan_blocks(rows, tokens, block_tokens=40, draw=Draw(seed=0, epoch=0, row_set_id="x"))
    assert sorted(unit for block in blocks for unit in block.units) == list(range(9))
    for block in blocks:
        assert tokens[list(block.units)].sum() <= 40 or len(block.units) == 1
    assert [block.first for block in blocks] == np.cumsum([0, *(b.n_rows for b in blocks[:-1])]).tolist()


def test_memory_is_flat_in_the_number_of_shards(memory_lake):
    lake = memory_lake([[50] * 4] * 24)
    held = []

    def fetch(unit_ids, columns):
        held.append(pa.total_allocated_bytes())
        fetched = lake.fetch(unit_ids, columns)
        return fetched.take(pa.array(range(fetched.num_rows)))  # memory of its own

    before = pa.total_allocated_bytes()
    list(RowSetReader(lake.row_set(), fetch, batch_sequences=4, block_tokens=200))
    one_block = lake.units["u000"].nbytes
    assert len(held) == 24
    assert max(held) - before < 6 * one_block


def test_sampling_weights_set_how_often_a_row_appears(memory_lake):
    weights = np.random.default_rng(1).gamma(1.0, size=40)
    weights[7] = 0
    lake = memory_lake([[6] * 10] * 4, weights=weights.tolist())
    reader = lake.reader(weight="mean_nll")
    expected = weights / weights.mean()
    seen = Counter()
    for _ in range(60):
        epoch = flat(epoch_of(reader))
        assert len(epoch) == 40
        counts = np.bincount(epoch, minlength=40)
        assert (np.abs(counts - expected) < 1).all()
        seen.update(epoch)
    found = np.array([seen[i] for i in range(40)]) / 60
    assert np.abs(found - expected).max() < 0.25
    assert seen[7] == 0


def test_the_steps_of_an_epoch_that_is_drawn_by_weight_are_even_to_its_end(memory_lake):
    rng = np.random.default_rng(2)
    lengths = rng.integers(5, 30, (8, 50))
    lake = memory_lake(lengths.tolist(), weights=rng.uniform(0.1, 1.1, 400).tolist())
    reader = lake.reader(batch_sequences=None, step_tokens=80, batch_tokens=1000, weight="mean_nll")
    totals = set()
    for _ in range(4):
        targets = [batch.step_targets for batch in reader if batch.ends_step]
        totals.add(sum(targets))
        assert len(targets) == len(reader)
        assert max(abs(np.array(targets) - np.mean(targets))) <= lengths.max()
    assert len(totals) > 1, "each epoch draws other rows"


def test_equal_weights_are_no_weights():
    weights = UnitWeights.of([3.0, 5.0], 8)
    assert weights.rows_drawn(0.3).tolist() == [3, 5]
    assert weights.copies(1, np.ones(5), 0.3).tolist() == [1] * 5


@pytest.mark.parametrize("bad", [[-1.0], [float("nan")], [None]])
def test_weights_that_are_none_are_refused(memory_lake, bad):
    lake = memory_lake([[6] * 2], weights=[1.0, *bad])
    with pytest.raises(SettingsError, match="finite weight"):
        epoch_of(lake.reader(weight="w"))


def test_weights_of_zero_for_all_are_refused(memory_lake):
    lake = memory_lake([[6] * 2], weights=[0.0, 0.0])
    with pytest.raises(SettingsError, match="nothing to train on"):
        epoch_of(lake.reader(weight="w"))


def test_an_error_while_reading_reaches_the_training_loop(lake):
    def fetch(unit_ids, columns):
        if len(lake.fetched) == 2:
            raise OSError("disk gone")
        return lake.fetch(unit_ids, columns)

    reader = RowSetReader(lake.row_set(), fetch, batch_sequences=2, block_tokens=60)
    with pytest.raises(OSError, match="disk gone"):
        list(reader)
    assert not [t for t in threading.enumerate() if t.name.startswith("row set")]


def test_leaving_early_ends_the_threads(lake):
    iterator = iter(lake.reader(batch_sequences=1))
    next(iterator)
    iterator.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("row set")]


def test_rows_forgotten_since_the_row_set_was_found_are_reported(lake):
    row_set = lake.row_set()
    lake.units["u003"] = lake.units["u003"].slice(1)
    with pytest.raises(LakeError, match="forgotten since"):
        list(RowSetReader(row_set, lake.fetch, batch_sequences=4))


def test_batches_move_to_a_device_whole(lake):
    batch = next(iter(lake.reader())).to(torch.device("meta"))
    assert batch.input_ids.is_meta
    assert batch.targets.probs.is_meta


@pytest.mark.parametrize("column", ["n_targets", "levels", "input_ids", "target_ids", "head_codes"])
def test_a_row_whose_targets_were_changed_on_disk_never_reaches_a_batch(lake, column):
    rows = lake.units["u002"]
    values = rows[column].to_pylist()
    values[0] = _raised(values[0])
    index = rows.schema.get_field_index(column)
    lake.units["u002"] = rows.set_column(
        index, rows.schema.field(index), pa.array(values, rows.schema.field(index).type)
    )
    with pytest.raises(IntegrityError, match="unit u002: a row does not match its hash"):
        epoch_of(lake.reader())


def _raised(value):
    """The same number or list of numbers, the first number one higher."""
    if not isinstance(value, list):
        return value + 1
    first = next(index for index, entry in enumerate(value) if entry != [])
    return [_raised(entry) if index == first else entry for index, entry in enumerate(value)]
