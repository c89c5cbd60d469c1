"""Rows of generated traces: stored with their writer, read back by SQL and by pyarrow alike."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitlake.storage.identity import document_id
from logitlake.storage.schema.sequences import SEQUENCES
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe

TRACE = {
    "nll_codes": [513, 255, None],
    "nll_steps_per_nat": 1024,
    "writer": "student-1",
    "sampling_settings": '{"temperature":0.7,"top_p":0.9}',
    "sampling_seed": 2**40,
    "sample_number": 3,
    "writer_nll_codes": [700, 300, None],
    "writer_nll_steps_per_nat": 256,
    "verdict": 0.5,
    "verdict_reason": "half right",
}


@pytest.fixture
def traces(lake, make_rows, recipe):
    """Document a is a trace, document b is not."""
    rows = make_rows("a", "b").to_pylist()
    rows = [row | TRACE if row["doc_id"] == document_id("a") else row for row in rows]
    register_recipe(lake, recipe)
    commit_unit(lake, pa.Table.from_pylist(rows, SEQUENCES), recipe=recipe, run_id="run", seconds=1.0)
    return lake


def test_a_trace_is_read_back_by_sql_and_by_pyarrow_as_it_was_stored(traces):
    columns = ", ".join(TRACE)
    query = f"SELECT {columns}, doc_id FROM sequences ORDER BY doc_id, window_index"
    path = traces.row("SELECT DISTINCT filename FROM store.sequences")["filename"]
    for rows in (traces.sql(query).to_pylist(), pq.read_table(path, columns=[*TRACE, "doc_id"]).to_pylist()):
        for row in rows:
            is_trace = row.pop("doc_id") == document_id("a")
            assert row == (TRACE if is_trace else dict.fromkeys(TRACE) | {"nll_codes": [16, 8, None]})


def test_log_probabilities_of_teacher_and_writer_are_in_nats_whatever_their_steps(traces):
    query = "SELECT logprob, writer_logprob FROM positions WHERE doc_id = ? AND window_index = 0 ORDER BY position"
    assert traces.connection.execute(query, [document_id("a")]).fetchall() == [
        (-513 / 1024, -700 / 256),
        (-255 / 1024, -300 / 256),
    ]
    assert traces.connection.execute(query, [document_id("b")]).fetchall() == [(-16 / 32, None), (-8 / 32, None)]
    nats = "SELECT nats(nll_codes[1], nll_steps_per_nat) AS nats FROM sequences WHERE doc_id = ? AND window_index = 0"
    assert traces.row(nats, [document_id("a")])["nats"] == 513 / 1024
    assert traces.row(nats, [document_id("b")])["nats"] == 16 / 32
