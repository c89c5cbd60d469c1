import numpy as np
import pytest

from logitlake.pipeline.reading.shares import share_sequences, share_tokens


def rows_of(share):
    return [row for batch in share for line in batch for row in line]


@pytest.mark.parametrize("ranks", [1, 2, 5, 64])
def test_each_row_is_in_one_share_and_all_ranks_have_as_many_batches(ranks):
    lengths = np.random.default_rng(0).integers(2, 512, 40).tolist()
    for shares in (
        share_tokens(lengths, ranks=ranks, batch_tokens=1024),
        share_tokens(lengths, ranks=ranks, batch_tokens=1024, packing=True),
        share_sequences(40, ranks=ranks, batch_sequences=3),
    ):
        assert sorted(row for share in shares for row in rows_of(share)) == list(range(40))
        assert len(shares) == ranks and len({len(share) for share in shares}) == 1


def test_ranks_get_about_the_same_number_of_tokens():
    lengths = np.random.default_rng(0).integers(2, 512, 100).tolist()
    loads = [sum(lengths[row] for row in rows_of(s)) for s in share_tokens(lengths, ranks=8, batch_tokens=2048)]
    assert max(loads) - min(loads) < 100


def test_a_batch_has_no_more_tokens_than_it_may_and_little_padding():
    lengths = np.random.default_rng(1).integers(2, 512, 300).tolist()
    (share,) = share_tokens([*lengths, 3000], ranks=1, batch_tokens=2048)
    assert share[0] == [[300]], "a longer row is a batch by itself"
    padded = 0
    for batch in share[1:]:
        longest = max(lengths[row] for (row,) in batch)
        assert len(batch) * longest <= 2048
        padded += len(batch) * longest
    assert padded < 1.2 * sum(lengths)


def test_packed_lines_are_no_longer_than_the_longest_row_and_full():
    lengths = np.random.default_rng(1).integers(2, 512, 300).tolist()
    (share,) = share_tokens(lengths, ranks=1, batch_tokens=2048, packing=True)
    lines = [sum(lengths[row] for row in line) for batch in share for line in batch]
    assert max(lines) == max(lengths)
    assert len(lines) * max(lengths) < 1.05 * sum(lengths)
    assert {len(batch) for batch in share} <= {3, 4}


def test_batches_of_sequences_take_the_rows_in_their_order():
    assert share_sequences(7, ranks=1, batch_sequences=3) == [[[[0], [1], [2]], [[3], [4], [5]], [[6]]]]
    assert share_sequences(5, ranks=2, batch_sequences=2) == [[[[0], [1]], []], [[[2], [3]], [[4]]]]
