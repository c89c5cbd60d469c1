"""Traces in the lake: each sample once, held out and forgotten with its prompt, there again after a rebuild."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import held_out
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.recovery.table_files import data_files
from logitlake.storage.schema.row_hash import with_row_hash
from logitlake.storage.schema.tables import TABLES
from logitlake.storage.upkeep.compaction import merge_small_tables
from logitlake.storage.upkeep.forgetting import find_documents, forget, whole_id
from logitlake.storage.writing.commits import SOURCES, commit_unit
from logitlake.storage.writing.known_documents import KnownDocuments
from logitlake.storage.writing.traces import (
    TRACES,
    Sample,
    TraceReceipt,
    commit_traces,
    forgotten_among,
    stored_samples,
    stored_traces,
)
from tests.tiny_traces import PROMPTS, trace_rows, verdict_rows


def commit(lake: Lake, traces: pa.Table) -> TraceReceipt:
    return commit_traces(lake, traces, verdict_rows(traces), run_id="run")


def held_ids(lake: Lake) -> set[str]:
    return set(lake.sql("SELECT doc_id FROM traces")["doc_id"].to_pylist())


def test_a_sample_that_is_committed_twice_is_there_once(lake: Lake) -> None:
    traces = trace_rows(PROMPTS[:3])
    first, second = commit(lake, traces.slice(0, 4)), commit(lake, traces)
    assert (first.n_traces, first.n_verdicts, second.n_traces, second.n_verdicts) == (4, 4, 2, 2)
    assert lake.row("SELECT count(*) AS n FROM store.traces")["n"] == 6
    assert second.commit_number == first.commit_number + 1


def test_what_is_stored_is_read_back_as_it_was(lake: Lake) -> None:
    traces = trace_rows(PROMPTS[:2])
    commit(lake, traces)
    stored = stored_traces(lake, traces["doc_id"].to_pylist()).sort_by("doc_id")
    expected = traces.sort_by("doc_id")
    for name in expected.column_names:
        assert stored[name].to_pylist() == expected[name].to_pylist()


def test_a_sample_is_found_by_prompt_and_number_and_judged_by_each_verifier_apart(lake: Lake) -> None:
    traces = trace_rows(PROMPTS[:2])
    commit(lake, traces)
    found = stored_samples(lake, PROMPTS[:3], sampling_id="s" * 32, verifier_id="v" * 32)
    assert set(found) == {(prompt, number) for prompt in PROMPTS[:2] for number in range(2)}
    assert all(sample.is_judged for sample in found.values())
    other = stored_samples(lake, PROMPTS[:3], sampling_id="s" * 32, verifier_id="x" * 32)
    assert [sample.is_judged for sample in other.values()] == [False] * 4
    assert stored_samples(lake, PROMPTS[:3], sampling_id="y" * 32, verifier_id="v" * 32) == {}


def test_the_last_verdict_on_a_trace_counts(lake: Lake) -> None:
    traces = trace_rows(PROMPTS[:1])
    commit(lake, traces)
    commit_traces(lake, TRACES.empty_table(), verdict_rows(traces, verifier="z" * 32, score=0.0), run_id="run")
    assert set(lake.sql("SELECT is_kept FROM traces")["is_kept"].to_pylist()) == {False}


def test_an_earlier_verifier_judges_again_if_another_has_judged_since(location: LakeLocation, lake: Lake) -> None:
    traces = trace_rows(PROMPTS[:1])
    first, second = verdict_rows(traces, verifier="a" * 32), verdict_rows(traces, verifier="b" * 32, score=0.0)
    commit_traces(lake, traces, first, run_id="run")
    commit_traces(lake, TRACES.empty_table(), second, run_id="run")
    found = stored_samples(lake, PROMPTS[:1], sampling_id="s" * 32, verifier_id="a" * 32)
    assert [sample.is_judged for sample in found.values()] == [False] * 2
    counts = [commit_traces(lake, TRACES.empty_table(), first, run_id="run").n_verdicts for _ in range(2)]
    assert counts == [2, 0], "a verdict that is the last already is not stored again"
    found = stored_samples(lake, PROMPTS[:1], sampling_id="s" * 32, verifier_id="a" * 32)
    assert [sample.is_judged for sample in found.values()] == [True] * 2
    kept = "SELECT verifier_id, is_kept FROM traces"
    expected = [{"verifier_id": "a" * 32, "is_kept": True}] * 2
    assert lake.sql(kept).to_pylist() == expected
    lake.close()
    assert location.catalog_file is not None
    location.catalog_file.rename(location.catalog_file.with_suffix(".old"))
    rebuild(location)
    with Lake.open(location) as again:
        assert again.sql(kept).to_pylist() == expected


def test_a_verdict_without_its_trace_is_not_stored(lake: Lake) -> None:
    receipt = commit_traces(lake, TRACES.empty_table(), verdict_rows(trace_rows(PROMPTS[:1])), run_id="run")
    assert receipt.n_verdicts == 0


def test_a_trace_is_held_out_exactly_if_its_prompt_is(split_lake: Lake) -> None:
    commit(split_lake, trace_rows(PROMPTS, 3))
    rows = split_lake.sql("SELECT prompt_id, held_out, is_held_out(doc_id) AS by_id FROM traces").to_pylist()
    for row in rows:
        assert row["held_out"] == row["by_id"] == held_out(row["prompt_id"], salt="salt", share=0.3)
    assert {row["held_out"] for row in rows} == {True, False}


@pytest.mark.parametrize("by", ["prompt_id", "prompt_doc_id"])
def test_forgetting_a_prompt_forgets_its_traces_also_those_that_were_captured(
    lake: Lake, make_rows: Any, recipe: dict[str, Any], by: str
) -> None:
    traces = trace_rows(PROMPTS[:2])
    commit(lake, traces)
    (gone, stays) = (traces.slice(0, 2)["doc_id"].to_pylist(), traces.slice(2)["doc_id"].to_pylist())
    rows = make_rows("a", "b")
    names = dict(zip(sorted(set(rows["doc_id"].to_pylist())), [gone[0], stays[0]], strict=True))
    doc_ids = pa.array([names[doc_id] for doc_id in rows["doc_id"].to_pylist()])
    commit_unit(lake, rows.set_column(1, "doc_id", doc_ids), recipe=recipe, run_id="run", seconds=1.0)
    forget(lake, [traces[by][0].as_py()], reason="asked for")
    assert held_ids(lake) == set(stays)
    assert set(lake.sql("SELECT doc_id FROM sequences")["doc_id"].to_pylist()) == {stays[0]}
    assert commit(lake, traces).n_traces == 0, "nothing brings them back"
    assert forgotten_among(lake, [*gone, *stays]) == set(gone)


def test_a_sample_whose_trace_is_forgotten_counts_as_stored_also_after_a_rebuild(
    location: LakeLocation, lake: Lake
) -> None:
    traces = trace_rows(PROMPTS[:2])
    commit(lake, traces)
    forget(lake, [traces["doc_id"][0].as_py()], reason="asked for")

    def sample(lake: Lake) -> Sample:
        return stored_samples(lake, PROMPTS[:1], sampling_id="s" * 32, verifier_id="v" * 32)[PROMPTS[0], 0]

    assert sample(lake) == Sample(doc_id=None, is_judged=True)
    other = traces.slice(0, 1).set_column(0, "doc_id", pa.array([PROMPTS[0] + "f" * 32]))
    assert commit(lake, other).n_traces == 0, "the sample does not come back with other tokens"
    lake.close()
    assert location.catalog_file is not None
    location.catalog_file.rename(location.catalog_file.with_suffix(".old"))
    rebuild(location)
    with Lake.open(location, read_only=False) as again:
        assert sample(again) == Sample(doc_id=None, is_judged=True)
        forget(again, [PROMPTS[0]], reason="asked for")
        assert again.row("SELECT count(*) AS n FROM store.forgotten_samples")["n"] == 0


def test_another_sample_with_the_tokens_of_a_forgotten_trace_is_written_no_second_time(lake: Lake) -> None:
    traces = trace_rows(PROMPTS[:1], 1)
    commit(lake, traces)
    forget(lake, traces["doc_id"].to_pylist(), reason="asked for")
    same = traces.set_column(traces.column_names.index("sample_number"), "sample_number", pa.array([5], pa.int32()))
    assert [commit(lake, same).n_traces for _ in range(2)] == [0, 0]
    found = stored_samples(lake, PROMPTS[:1], sampling_id="s" * 32, verifier_id="v" * 32)
    assert set(found) == {(PROMPTS[0], 0), (PROMPTS[0], 5)}
    assert lake.row("SELECT count(*) AS n FROM store.forgotten_samples")["n"] == 2


def test_a_forgotten_prompt_leaves_the_disk_with_the_next_upkeep(lake: Lake) -> None:
    commit(lake, trace_rows(PROMPTS[:2], word="secret"))
    forget(lake, [PROMPTS[0]], reason="asked for")
    merge_small_tables(lake)
    current = lake.sql("SELECT data_file FROM ducklake_list_files('lake', 'traces', schema => 'store')")
    texts = [
        text
        for path in current["data_file"].to_pylist()
        for text in lake.sql("SELECT completion FROM read_parquet(?)", [path])["completion"].to_pylist()
    ]
    assert len(texts) == 2 and not any(PROMPTS[0] in text for text in texts)


def test_traces_and_prompts_are_found_by_source_and_by_the_beginning_of_their_id(lake: Lake) -> None:
    traces = trace_rows(PROMPTS[:1])
    commit(lake, traces)
    record, first = traces["prompt_doc_id"][0].as_py(), traces["doc_id"][0].as_py()
    assert find_documents(lake, source="questions/easy/") == sorted({record, *traces["doc_id"].to_pylist()})
    assert whole_id(lake, PROMPTS[0][:9]) == PROMPTS[0]
    assert whole_id(lake, first[:40]) == first
    assert whole_id(lake, first) == first


def test_a_rebuild_brings_back_every_trace_and_nothing_forgotten(location: LakeLocation, lake: Lake) -> None:
    traces = trace_rows(PROMPTS[:3])
    commit(lake, traces.slice(0, 4))
    commit(lake, traces)
    forget(lake, [PROMPTS[1]], reason="asked for")
    before = lake.sql("SELECT * FROM traces ORDER BY doc_id")
    number = lake.commit_number
    lake.close()
    assert location.catalog_file is not None
    location.catalog_file.rename(location.catalog_file.with_suffix(".old"))
    assert rebuild(location).damaged == {}
    with Lake.open(location) as again:
        assert again.sql("SELECT * FROM traces ORDER BY doc_id").equals(before)
        assert again.commit_number >= number


def test_files_of_a_killed_commit_bring_no_sample_twice_in_a_rebuild(
    location: LakeLocation, lake: Lake, tmp_path: Path
) -> None:
    traces = trace_rows(PROMPTS[:1], 1)
    commit(lake, traces)
    (file,) = data_files(location, "traces")
    again = lake.sql("SELECT * EXCLUDE (row_hash) FROM read_parquet(?)", [file]).to_pylist()
    lake.close()
    again[0]["run_id"] = "killed"
    rows = with_row_hash("traces", pa.Table.from_pylist(again, TABLES["traces"].columns))
    pq.write_table(rows, Path(file).with_name("killed.parquet"))
    assert location.catalog_file is not None
    location.catalog_file.rename(location.catalog_file.with_suffix(".old"))
    rebuild(location)
    with Lake.open(location) as rebuilt:
        assert rebuilt.row("SELECT count(*) AS n FROM store.traces")["n"] == 1


def test_known_documents_tell_a_trace_from_its_prompt(lake: Lake, make_rows: Any, recipe: dict[str, Any]) -> None:
    traces = trace_rows(PROMPTS[:1])["doc_id"].to_pylist()
    rows = make_rows("a")
    renamed = rows.set_column(1, "doc_id", pa.array([traces[0]] * rows.num_rows))
    commit_unit(lake, renamed, recipe=recipe, run_id="run", seconds=1.0)
    recipe_id = renamed["recipe_id"][0].as_py()
    assert KnownDocuments(lake, recipe_id)([PROMPTS[0], *traces]) == {traces[0]}
    assert json.loads(lake.row("SELECT to_json(doc_id) AS j FROM documents")["j"]) == traces[0]


def test_a_trace_from_elsewhere_does_not_come_back_after_its_prompt_is_forgotten(
    lake: Lake, make_rows: Any, recipe: dict[str, Any]
) -> None:
    """The lake has never seen the trace: only the beginning of its id tells the prompt."""
    (gone, stays) = (trace_rows([prompt], 1)["doc_id"][0].as_py() for prompt in PROMPTS[:2])
    rows = make_rows("a", "b")
    names = dict(zip(sorted(set(rows["doc_id"].to_pylist())), [gone, stays], strict=True))
    renamed = rows.set_column(1, "doc_id", pa.array([names[doc_id] for doc_id in rows["doc_id"].to_pylist()]))
    forget(lake, [PROMPTS[0]], reason="asked for")
    assert KnownDocuments(lake, rows["recipe_id"][0].as_py())([gone, stays]) == {gone}
    seen = pa.Table.from_pylist(
        [{"doc_id": doc_id, "corpus": "c", "source": "s", "line": None} for doc_id in (gone, stays)], SOURCES
    )
    commit_unit(lake, renamed, recipe=recipe, run_id="run", seconds=1.0, sources=seen)
    for table in ("documents", "sequences", "document_sources"):
        assert set(lake.sql(f"SELECT doc_id FROM store.{table}")["doc_id"].to_pylist()) == {stays}, table
