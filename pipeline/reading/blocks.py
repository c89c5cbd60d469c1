"""The rows of an epoch, a block of work units at a time: read from the lake or from a local copy, decoded, in order.

However many shards there are, memory holds three blocks at most: the one that is worked on, the next one, which is read
meanwhile, and what is left of the one before. The reader of steps longer than a block holds the blocks of its step.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from logitlake.pipeline.reading.batches import TARGET_COLUMNS
from logitlake.pipeline.reading.local_copy import KEY_COLUMNS, LocalCopy
from logitlake.pipeline.reading.row_order import Block, Draw, UnitWeights, in_order, order_rows, plan_blocks
from logitlake.pipeline.targets.decoding import CutMass, DecodedRows, DecodedTable, PickedRow
from logitlake.storage.errors import IntegrityError, LakeError, SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import RowSet, fetch
from logitlake.storage.schema.sequences import differing_targets

# (unit ids, columns) → their rows ordered by (unit_id, doc_id, window), as storage.row_sets.row_set.fetch gives them.
Fetch = Callable[[Sequence[str], Sequence[str]], pa.Table]

_WEIGHTS_AT_ONCE = 1_000_000


def lake_fetch(lake: Lake, row_set: RowSet) -> Fetch:
    """A `Fetch` that any thread may call, for as long as `lake` is open.

    A lake that is attached and not asked holds no lock: upkeep never waits for a reader.
    """
    own = threading.local()

    def read(unit_ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        if not hasattr(own, "lake"):
            own.lake = lake.for_thread()
        return fetch(own.lake, row_set, unit_ids, columns)

    return read


def check_targets(rows: pa.Table, unit_id: str) -> None:
    """Compare rows of one unit (TARGET_COLUMNS and `targets_hash`) with their hashes.

    Raises IntegrityError for a row that was changed.
    """
    for batch in rows.to_batches():
        if pc.any(differing_targets(pa.Table.from_batches([batch]))).as_py():
            raise IntegrityError(
                f"unit {unit_id}: a row does not match its hash, so its targets were changed on disk; "
                "`logitlake verify` names the file: restore it from a backup, or let `logitlake repair` remove the "
                "document and `logitlake capture` compute it again"
            )


@dataclass(frozen=True, slots=True)
class Segment:
    """Some rows of one block, in reading order, and how many targets each of them has."""

    rows: list[PickedRow]
    n_targets: list[int]

    def __add__(self, other: "Segment") -> "Segment":
        return Segment(self.rows + other.rows, self.n_targets + other.n_targets)

    def part(self, begin: int, end: int) -> "Segment":
        """Rows [begin, end) of these."""
        return Segment(self.rows[begin:end], self.n_targets[begin:end])


class EpochRows:
    """The rows of one row set in the order of any epoch. `read` is called by one background thread at a time.

    With a `local_copy`, the lake is asked which rows there are, and only those that have no copy are read from shards.
    """

    def __init__(
        self,
        row_set: RowSet,
        read: Fetch,
        *,
        seed: int,
        cut_mass: CutMass,
        block_tokens: int,
        local_copy: LocalCopy | None = None,
    ) -> None:
        self._row_set = row_set
        self._read_rows = read
        self._seed = seed
        self._cut_mass = cut_mass
        self._block_tokens = block_tokens
        self._local_copy = local_copy
        self._unit_ids = row_set.units["unit_id"].to_pylist()
        self._unit_rows = row_set.units["n_sequences"].to_numpy().astype(np.int64)
        self._unit_tokens = row_set.units["n_tokens"].to_numpy().astype(np.int64)
        self._weights: UnitWeights | None = None
        self._weighted_totals: tuple[int, int] | None = None

    def mean_totals(self) -> tuple[int, int]:
        """Tokens and targets of an epoch; of the mean epoch, where rows are drawn by weight."""
        if self._row_set.weight is None:
            return self._row_set.n_tokens, self._row_set.n_targets
        self._unit_weights()
        assert self._weighted_totals is not None
        return self._weighted_totals

    def targets_of(self, epoch: int) -> int:
        """Targets of an epoch. For rows drawn by weight that takes a pass over few columns."""
        if self._row_set.weight is None:
            return self._row_set.n_targets
        offset, weights, total = self._offset(self._draw(epoch)), self._unit_weights(), 0
        for units in in_order(self._unit_rows, _WEIGHTS_AT_ONCE):
            rows = self._rows_of(units, ["n_targets"])
            columns = (self._by_unit(units, rows[name].to_numpy()) for name in ("weight", "n_targets"))
            for unit, of_unit, n_targets in zip(units, *columns, strict=True):
                total += int(weights.copies(unit, of_unit, offset) @ n_targets)
        return total

    def longest(self) -> int:
        """Tokens of the longest row: a pass over one column."""
        parts = (self._rows_of(units, ["n_tokens"]) for units in in_order(self._unit_rows, _WEIGHTS_AT_ONCE))
        return max(int(pc.max(rows["n_tokens"]).as_py()) for rows in parts)

    def segments(self, epoch: int, skip: int) -> Iterator[Segment]:
        """The epoch's rows from row `skip` on, a block at a time; the next block is read while one is worked on."""
        draw = self._draw(epoch)
        offset, drawn = 0.0, self._unit_rows
        if self._row_set.weight is not None:
            offset = self._offset(draw)
            drawn = self._unit_weights().rows_drawn(offset)
        blocks = plan_blocks(drawn, self._unit_tokens, block_tokens=self._block_tokens, draw=draw)
        wanted = [block for block in blocks if block.n_rows and block.first + block.n_rows > skip]
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="row set fetch") as loader:
            coming: Future[Segment] | None = None
            for number, block in enumerate(wanted):
                segment = (coming or loader.submit(self._read, block, draw, offset)).result()
                following = wanted[number + 1 : number + 2]
                coming = loader.submit(self._read, following[0], draw, offset) if following else None
                yield segment.part(max(skip - block.first, 0), block.n_rows)

    def _draw(self, epoch: int) -> Draw:
        return Draw(seed=self._seed, epoch=epoch, row_set_id=self._row_set.row_set_id)

    def _offset(self, draw: Draw) -> float:
        """The uniform that decides how often each row appears, where rows are drawn by weight."""
        return float(draw.uniforms("weights", 1)[0])

    def _read(self, block: Block, draw: Draw, offset: float) -> Segment:
        rows, decoded = self._decoded(block.units)
        copies = None
        if self._row_set.weight is not None:
            weights = self._by_unit(block.units, rows["weight"].to_numpy())
            pairs = zip(block.units, weights, strict=True)
            copies = np.concatenate([self._unit_weights().copies(unit, of_unit, offset) for unit, of_unit in pairs])
        order = order_rows(rows["n_tokens"].to_numpy(), copies, block=block.number, draw=draw)
        return Segment(decoded.rows(order), rows["n_targets"].to_numpy()[order].tolist())

    def _decoded(self, units: Sequence[int]) -> tuple[pa.Table, DecodedTable]:
        """The rows of some units (at least `n_tokens`, `n_targets` and `weight`), and the same rows decoded."""
        if self._local_copy is None:
            rows = self._target_rows(units)
            return rows, DecodedTable.of(rows, cut_mass=self._cut_mass)
        keys = self._rows_of(units, KEY_COLUMNS)
        names = {
            unit: self._local_copy.name(self._unit_ids[unit], keys.slice(first, count), self._cut_mass)
            for unit, first, count in self._places(units)
        }
        copies = {unit: self._local_copy.load(name) for unit, name in names.items()}
        missing = [unit for unit, copy in copies.items() if copy is None]
        chunks: dict[int, list[DecodedRows]] = {unit: [copy] for unit, copy in copies.items() if copy is not None}
        if missing:
            rows = self._target_rows(missing)
            for unit, first, count in self._places(missing):
                chunks[unit] = DecodedTable.of(rows.slice(first, count), cut_mass=self._cut_mass).chunks
                self._local_copy.save(names[unit], chunks[unit])
        return keys, DecodedTable.joined([chunk for unit in units for chunk in chunks[unit]])

    def _target_rows(self, units: Sequence[int]) -> pa.Table:
        """The rows of some units, compared with their hashes. Raises IntegrityError for a row that was changed."""
        rows = self._rows_of(units, (*TARGET_COLUMNS, "targets_hash"))
        for unit, first, count in self._places(units):
            check_targets(rows.slice(first, count), self._unit_ids[unit])
        return rows

    def _places(self, units: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """Of rows read together: each unit, its first row, and how many it has."""
        counts = self._unit_rows[list(units)]
        return zip(units, (np.cumsum(counts) - counts).tolist(), counts.tolist(), strict=True)

    def _by_unit(self, units: Sequence[int], values: np.ndarray) -> list[np.ndarray]:
        return [values[first : first + count] for _, first, count in self._places(units)]

    def _rows_of(self, units: Sequence[int], columns: Sequence[str]) -> pa.Table:
        unit_ids = [self._unit_ids[unit] for unit in units]
        rows = self._read_rows(unit_ids, columns)
        expected = int(self._unit_rows[list(units)].sum())
        if rows.num_rows != expected:
            raise LakeError(
                f"units {', '.join(unit_ids[:3])}…: the row set has {expected} rows of them, the lake has "
                f"{rows.num_rows}: documents were forgotten since: run the command again, it selects the rows again"
            )
        return rows

    def _unit_weights(self) -> UnitWeights:
        """Sums of the sampling weights of every unit: one pass over few columns, the first time it is needed."""
        if self._weights is None:
            sums: list[float] = []
            totals = np.zeros(2)
            for units in in_order(self._unit_rows, _WEIGHTS_AT_ONCE):
                rows = self._rows_of(units, ["n_tokens", "n_targets"])
                weights = _checked_weights(rows)
                totals += [weights @ rows[name].to_numpy() for name in ("n_tokens", "n_targets")]
                sums.extend(float(part.sum()) for part in self._by_unit(units, weights))
            self._weights = UnitWeights.of(sums, self._row_set.n_sequences)
            n_tokens, n_targets = np.rint(totals * self._weights.scale).astype(np.int64).tolist()
            self._weighted_totals = n_tokens, n_targets
        return self._weights


def _checked_weights(rows: pa.Table) -> np.ndarray:
    column = rows["weight"]
    weights = column.to_numpy()
    if column.null_count or not np.isfinite(weights).all() or (weights < 0).any():
        raise SettingsError("training.weight: every row needs a finite weight of at least 0; use coalesce and greatest")
    return weights
