"""What every import format gives: token ids, and ids with probabilities at each position.

Shapes: R rows; N tokens of all rows end to end; E entries.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitlake.pipeline.targets.arrow_lists import flat_lists, running_sums
from logitlake.storage.errors import CorpusError


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseRows:
    """R rows with the distribution of token i+1 at position i, as far as it is known.

    `tokens` int32 [N], `row_offsets` int64 [R+1], `offsets` int64 [N+1], `ids` int64 [E], `probs` float64 [E]. `lines`
    int64 [R]: which row of the file, from 1. Entries may be worth nothing, and a position may have none.
    """

    tokens: NDArray[np.int32]
    row_offsets: NDArray[np.int64]
    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    probs: NDArray[np.float64]
    lines: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.row_offsets)

    def kept(self, wanted_R: NDArray[np.bool_]) -> "SparseRows":
        """Some of the rows."""
        wanted_N = np.repeat(wanted_R, self.lengths)
        counts_N = np.diff(self.offsets)
        wanted_E = np.repeat(wanted_N, counts_N)
        return SparseRows(
            tokens=self.tokens[wanted_N],
            row_offsets=running_sums(self.lengths[wanted_R]),
            offsets=running_sums(counts_N[wanted_N]),
            ids=self.ids[wanted_E],
            probs=self.probs[wanted_E],
            lines=self.lines[wanted_R],
        )

    def masked(self, wanted_N: NDArray[np.bool_]) -> "SparseRows":
        """The same rows without the entries of positions that are not wanted."""
        counts_N = np.diff(self.offsets)
        wanted_E = np.repeat(wanted_N, counts_N)
        return SparseRows(
            tokens=self.tokens,
            row_offsets=self.row_offsets,
            offsets=running_sums(np.where(wanted_N, counts_N, 0)),
            ids=self.ids[wanted_E],
            probs=self.probs[wanted_E],
            lines=self.lines,
        )

    def split_at(self, begins_N: NDArray[np.bool_]) -> "SparseRows":
        """Rows that also begin wherever `begins_N` says so; the parts of a row keep its line."""
        begins = begins_N.copy()
        begins[self.row_offsets[:-1][self.lengths > 0]] = True
        starts = np.flatnonzero(begins)
        lines_N = np.repeat(self.lines, self.lengths)
        return SparseRows(
            tokens=self.tokens,
            row_offsets=np.append(starts, len(self.tokens)).astype(np.int64),
            offsets=self.offsets,
            ids=self.ids,
            probs=self.probs,
            lines=lines_N[starts],
        )


def column(table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    """A column cast to `kind`. Raises CorpusError if it is missing, of another type, or has a null row."""
    if name not in table.column_names:
        raise CorpusError(f"expected the column {name}, found {', '.join(table.column_names)}")
    try:
        cast = table[name].cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CorpusError(f"column {name}: expected {kind}, found {table.schema.field(name).type}: {error}") from None
    if cast.null_count:
        raise CorpusError(f"column {name}: expected no null, found {cast.null_count}")
    return cast


def token_column(table: pa.Table) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """`input_ids` end to end, and the offsets of the rows."""
    tokens, offsets = flat_lists(column(table, "input_ids", pa.list_(pa.int64())))
    if len(tokens) and (tokens.min() < 0 or tokens.max() > np.iinfo(np.int32).max):
        raise CorpusError(f"column input_ids: expected ids of 0 to 2^31 - 1, found {tokens.min()} to {tokens.max()}")
    return tokens.astype(np.int32), offsets


def fitted(
    row_offsets: NDArray[np.int64], list_rows: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Entries per token, where a row has one list for each of its tokens or for all but the last.

    `counts` are those of the lists, `list_rows` the offsets of the rows among them. Raises CorpusError for others.
    """
    lengths, given = np.diff(row_offsets), np.diff(list_rows)
    if wrong := np.flatnonzero((given != lengths) & (given != lengths - 1)).tolist():
        row = wrong[0]
        raise CorpusError(
            f"row {row + 1} of a batch: expected targets for each of its {lengths[row]} tokens or all but the last, "
            f"found {given[row]}"
        )
    fitting = np.zeros(int(row_offsets[-1]), np.int64)
    fitting[np.repeat(row_offsets[:-1] - list_rows[:-1], given) + np.arange(len(counts))] = counts
    return fitting
