"""How the rows of one step are shared among ranks, and each rank's rows among batches that fit on its device.

A share is a list of batches, a batch a list of lines, a line the numbers of the rows that stand in it end to end. All
ranks get the same number of batches, some without lines: FSDP gathers weights in each forward, which every rank must
then take part in. The loss of a step does not depend on how it is shared.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise

Line = list[int]
Batch = list[Line]
Share = list[Batch]

# A row that is shorter than this part of a batch's longest row goes to another batch: it would be mostly padding.
_LEAST_FILLED = 0.75


def share_sequences(n_rows: int, *, ranks: int, batch_sequences: int) -> list[Share]:
    """The share of each rank: batches of at most `batch_sequences` rows in their own order, spread evenly."""
    shares: list[Share] = [[] for _ in range(ranks)]
    for begin in range(0, n_rows, ranks * batch_sequences):
        count = min(ranks * batch_sequences, n_rows - begin)
        for rank, share in enumerate(shares):
            low, high = (begin + count * each // ranks for each in (rank, rank + 1))
            share.append([[row] for row in range(low, high)])
    return shares


def share_tokens(lengths: Sequence[int], *, ranks: int, batch_tokens: int, packing: bool = False) -> list[Share]:
    """The share of each rank, with about the same number of tokens: batches of at most `batch_tokens` with padding.

    A row that is longer than `batch_tokens` is a batch by itself. With `packing` a line holds as many rows as fit into
    the length of the longest row.
    """
    arranged = _packed if packing else _padded
    shares = [arranged(rows, lengths, batch_tokens) for rows in _balanced(lengths, ranks)]
    most = max(map(len, shares))
    return [share + [[] for _ in range(most - len(share))] for share in shares]


def _balanced(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Rows of each rank, the longest first: each row, in that order, goes to the rank with the fewest tokens."""
    rows: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        load, rank = loads[0]
        rows[rank].append(row)
        heapq.heapreplace(loads, (load + lengths[row], rank))
    return rows


def _padded(rows: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> Share:
    """A row a line; `rows` has the longest first."""
    share: Share = []
    for row in rows:
        longest = lengths[share[-1][0][0]] if share else 0
        if not share or (len(share[-1]) + 1) * longest > batch_tokens or lengths[row] < _LEAST_FILLED * longest:
            share.append([])
        share[-1].append([row])
    return share


def _packed(rows: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> Share:
    """Best fit: each row, the longest first, goes to the line with the least room that is enough.

    Lines are no longer than the longest row: the cost of attention with a mask grows with the square of the line.
    """
    if not rows:
        return []
    longest = lengths[rows[0]]
    lines: list[Line] = []
    rooms: list[tuple[int, int]] = []  # room that is left, and number of the line; ascending
    for row in rows:
        at = bisect_left(rooms, (lengths[row], 0))
        room, line = rooms.pop(at) if at < len(rooms) else (longest, len(lines))
        if line == len(lines):
            lines.append([])
        lines[line].append(row)
        insort(rooms, (room - lengths[row], line))
    count = -(-len(lines) // max(1, batch_tokens // longest))
    bounds = [len(lines) * number // count for number in range(count + 1)]
    return [lines[low:high] for low, high in pairwise(bounds)]
