import numpy as np
import pyarrow as pa
import pytest

from logitlake.pipeline.reading.batches import NO_LABEL, batch_of, make_batch
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


def reference_batch(rows, cut_mass, pad_id):
    """A batch by plain loops over Python numbers: per padded position its next token, (id, probability)s and ghost."""
    T = max(2, *rows["n_tokens"].to_pylist())
    input_ids, positions = [], []
    for row in rows.to_pylist():
        tokens = row["input_ids"]
        input_ids.append(tokens + [pad_id] * (T - len(tokens)))
        for i in range(T):
            ids, codes = (row["target_ids"][i], row["head_codes"][i]) if i < len(tokens) else ([], [])
            levels, coded, n_tails = row["levels"], sum(codes), len(ids) - len(codes)
            cut = n_tails == 0 and 0 < coded < levels
            worth = coded if cut and cut_mass == "renormalise" else levels
            probs = (
                [code / worth for code in codes] + [(levels - coded) / levels / max(n_tails, 1)] * n_tails
                if ids
                else []
            )
            ghost = (levels - coded) / levels if cut and cut_mass == "ghost" else 0.0
            positions.append((tokens[i + 1] if ids else NO_LABEL, list(zip(ids, probs, strict=True)), ghost))
    return input_ids, positions


@pytest.mark.parametrize("cut_mass", ["renormalise", "ghost"])
@pytest.mark.parametrize("levels", [[64, 64], [64, 4096]])
@pytest.mark.parametrize("tail", [True, False])
def test_a_batch_is_what_plain_loops_make_of_its_rows(make_rows, cut_mass, levels, tail):
    tables = [make_rows([5, 17, 1, 9], seed=n, levels=levels[n], tail=tail and n == 0) for n in range(2)]
    rows = pa.concat_tables(tables)
    batch = make_batch(rows, cut_mass=cut_mass, pad_id=3)
    input_ids, positions = reference_batch(rows, cut_mass, 3)
    assert batch.input_ids.tolist() == input_ids
    assert batch.next_ids.ravel().tolist() == [label for label, _, _ in positions]
    entries = [entry for _, of_position, _ in positions for entry in of_position]
    assert batch.targets.ids.tolist() == [token for token, _ in entries]
    assert batch.targets.probs.numpy() == pytest.approx([prob for _, prob in entries], rel=1e-6)
    assert np.diff(batch.targets.offsets).tolist() == [len(of_position) for _, of_position, _ in positions]
    ghosts = [ghost for _, _, ghost in positions]
    if batch.targets.ghost is None:
        assert not any(ghosts)
    else:
        assert batch.targets.ghost.numpy() == pytest.approx(ghosts, rel=1e-6)
    assert batch.n_tokens == sum(rows["n_tokens"].to_pylist())
    assert batch.n_targets == batch.step_targets == sum(label != NO_LABEL for label, _, _ in positions)
