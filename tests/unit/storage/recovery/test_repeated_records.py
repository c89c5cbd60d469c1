"""Records that the files hold twice are taken once, and a large table is never in memory as a whole."""

import weakref
from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from logitlake.storage.recovery import repeated_records
from logitlake.storage.recovery.repeated_records import without_repeated
from logitlake.storage.schema.tables import TABLES
from tests.tiny_traces import PROMPTS, trace_rows


def test_a_rebuild_takes_the_last_of_each_trace_and_holds_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_records, "_BATCH_ROWS", 7)
    alive: list[weakref.ref[pa.Table]] = []

    def batches() -> Iterator[pa.Table]:
        for number, word in ((1, "first"), (3, "last"), (2, "second")):
            for prompt in PROMPTS[:10]:
                assert sum(reference() is not None for reference in alive) == 0, "an earlier batch is still held"
                added = {"commit_number": number, "run_id": "run", "written_at": datetime(2026, 1, 1, tzinfo=UTC)}
                rows = [row | added for row in trace_rows([prompt], word=word).to_pylist()]
                batch = pa.Table.from_pylist(rows, TABLES["traces"].columns)
                alive.append(weakref.ref(batch))
                yield batch
                del batch

    taken = list(without_repeated("traces", batches()))
    assert all(table.num_rows <= 7 for table in taken) and len(taken) > 1
    rows = pa.concat_tables(taken).cast(TABLES["traces"].columns).to_pylist()
    assert len(rows) == 20 and all(row["completion"].startswith("last") for row in rows)
    assert list(without_repeated("traces", iter(()))) == []
