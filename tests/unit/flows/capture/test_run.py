"""One execution of the teacher flow: what it computes, commits, counts and notes, without Prefect."""

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.reports import CaptureReport
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.answers.listings import listing
from logitlake.storage.errors import LakeBusyError, SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.sql.session import query
from logitlake.storage.writing.commits import commit_units

CaptureCall = Callable[[Config], CaptureReport]


def runs(config: Config) -> list[dict[str, Any]]:
    with Lake.open(location_of(config)) as lake:
        return listing(lake, "runs", limit=10).rows.to_pylist()


def test_a_run_commits_every_document_once_and_counts_what_it_met(config: Config, run_capture: CaptureCall) -> None:
    report = run_capture(config)
    assert (report.documents_seen, report.n_documents, report.documents_repeated) == (31, 30, 1)
    assert report.documents_rejected == 1
    assert report.n_units > 1
    assert report.stopped == ""
    found = query(location_of(config), "SELECT count(*) AS n, sum(n_tokens) AS t FROM documents").to_pylist()[0]
    assert (found["n"], found["t"]) == (30, report.n_tokens)
    assert runs(config)[0]["status"] == "finished"
    assert runs(config)[0]["n_tokens"] == report.n_tokens


def test_a_second_run_computes_nothing_and_loads_no_torch(config: Config, captured: CaptureReport) -> None:
    script = f"""
        import json, sys
        from logitlake.flows.capture.run import CaptureRun
        from logitlake.pipeline.settings.models import Config
        with CaptureRun(Config.model_validate(json.loads({config.model_dump_json()!r}))) as run:
            for number in run.units():
                run.commit(run.compute(number))
        assert run.report.n_tokens == 0, run.report
        assert run.report.documents_known == 31, run.report
        print(json.dumps([name for name in ("torch", "transformers", "prefect") if name in sys.modules]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stdout) == []


def test_a_cap_on_tokens_ends_a_run_cleanly_and_the_next_goes_on(config: Config, run_capture: CaptureCall) -> None:
    capture = config.capture.model_copy(update={"max_tokens": 400})
    first = run_capture(config.model_copy(update={"capture": capture}))
    assert 0 < first.n_tokens <= 400
    assert "max_tokens 400" in first.stopped
    second = run_capture(config)
    assert second.documents_known >= first.n_documents
    assert first.n_documents + second.n_documents == 30


def test_after_max_hours_no_unit_is_started(config: Config, run_capture: CaptureCall) -> None:
    capture = config.capture.model_copy(update={"max_hours": 1e-9})
    report = run_capture(config.model_copy(update={"capture": capture}))
    assert report.n_tokens == 0
    assert "max_hours" in report.stopped


def test_a_unit_that_was_computed_before_an_interruption_is_kept_and_the_run_says_how_it_ended(
    config: Config, run_capture: CaptureCall
) -> None:
    with pytest.raises(KeyboardInterrupt), CaptureRun(config) as run:
        numbers = run.units()
        run.commit(run.compute(next(numbers)))
        run.compute(next(numbers))
        raise KeyboardInterrupt
    assert run.report.n_units == 2
    done = runs(config)[0]
    assert done["status"] == "interrupted"
    assert done["n_documents"] == run.report.n_documents > 0
    assert run_capture(config).n_documents == 30 - done["n_documents"]


def test_a_commit_under_way_in_another_thread_ends_before_the_lake_is_closed(
    config: Config, run_capture: CaptureCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, receipts = threading.Event(), []

    def slow_commit(*given: Any, **named: Any) -> Any:
        begun.set()
        time.sleep(0.3)
        return commit_units(*given, **named)

    monkeypatch.setattr("logitlake.flows.capture.run.commit_units", slow_commit)
    with pytest.raises(KeyboardInterrupt), CaptureRun(config) as run:
        number = run.compute(next(run.units()))
        committing = threading.Thread(target=lambda: receipts.append(run.commit(number)))
        committing.start()
        begun.wait()
        raise KeyboardInterrupt
    committing.join()
    assert [receipt.n_documents for receipt in receipts] == [run.report.n_documents]
    assert runs(config)[0]["n_documents"] == run.report.n_documents > 0


def test_what_a_new_teacher_brings_waits_for_the_commit_of_the_notes_before_it(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CaptureRun(config) as run:
        number = next(run.units())
        run._writing.acquire()
        computing = threading.Thread(target=run.compute, args=(number,))
        computing.start()
        computing.join(0.5)
        assert computing.is_alive()
        assert query(location_of(config), "SELECT count(*) AS n FROM recipes").to_pylist() == [{"n": 0}]
        run._writing.release()
        computing.join()
        assert run.commit(number) == run.commit(number)
        assert run.report.n_units == 1


def test_two_captures_at_once_are_refused_by_name(config: Config) -> None:
    with CaptureRun(config), pytest.raises(LakeBusyError, match="another capture is running"), CaptureRun(config):
        pass


def test_rejects_and_every_source_of_a_document_are_in_the_lake(config: Config, captured: CaptureReport) -> None:
    rejects = query(location_of(config), "SELECT source, line, reason FROM rejects").to_pylist()
    assert rejects == [{"source": "documents.jsonl", "line": 6, "reason": "bad_json"}]
    twice = query(location_of(config), "SELECT doc_id FROM sources GROUP BY doc_id HAVING count(*) > 1")
    assert twice.num_rows == 1


def test_the_vocabulary_of_the_teacher_is_there_for_joins(config: Config, captured: CaptureReport) -> None:
    rows = query(location_of(config), "SELECT count(*) AS n FROM positions WHERE token IS NULL").to_pylist()
    assert rows[0]["n"] == 0


def test_a_lost_corpus_is_told_and_what_was_committed_stays(
    config: Config, run_capture: CaptureCall, captured: CaptureReport, tmp_path: Path
) -> None:
    corpus = config.corpora[0].model_copy(update={"path": str(tmp_path / "gone.jsonl")})
    with pytest.raises(Exception, match=r"gone\.jsonl"):
        run_capture(config.model_copy(update={"corpora": (corpus,)}))
    assert runs(config)[0]["status"] == "failed"
    assert query(location_of(config), "SELECT count(*) AS n FROM documents").to_pylist()[0]["n"] == 30


@pytest.mark.slow
def test_a_probe_is_asked_once_and_its_answer_is_the_recipe_from_then_on(
    config: Config, run_capture: CaptureCall
) -> None:
    wish = config.model_copy(update={"target": config.target.model_copy(update={"target_bytes": 18.0})})
    first = run_capture(wish)
    again = run_capture(wish)
    assert first.n_documents == 30
    assert (again.n_documents, again.recipe_id) == (0, first.recipe_id)
    assert len(list((config.lake.path / "data" / "probes").iterdir())) == 1


@pytest.mark.slow
def test_a_target_that_is_added_later_costs_one_pass_and_stores_no_row_of_the_first_again(
    config: Config, captured: CaptureReport, run_capture: CaptureCall
) -> None:
    wider = Config.model_validate({**config.model_dump(), "targets": [{"sparsifier": "top_k", "k": 4}, {"seed": 5}]})
    report = run_capture(wider)
    assert (report.documents_known, report.n_documents, report.n_tokens) == (0, 30, captured.n_tokens)
    rows = query(
        location_of(config),
        "SELECT recipe_id, count(*) AS n, count(DISTINCT doc_id) AS d FROM documents GROUP BY 1",
    ).to_pylist()
    assert sorted((row["n"], row["d"]) for row in rows) == [(30, 30)] * 3
    assert captured.recipe_id in {row["recipe_id"] for row in rows}
    last = runs(config)[0]
    assert (last["n_documents"], last["n_tokens"]) == (30, captured.n_tokens), "a pass counts once"
    assert run_capture(wider).n_tokens == 0
    assert run_capture(config).n_tokens == 0


def test_targets_that_are_the_same_are_refused(config: Config, run_capture: CaptureCall) -> None:
    twice = Config.model_validate({**config.model_dump(), "targets": [config.target.model_dump()]})
    with pytest.raises(SettingsError, match="expected targets that differ"):
        run_capture(twice)


@pytest.mark.slow
def test_a_probed_target_that_is_one_of_the_others_is_refused_before_anything_is_stored(
    config: Config, run_capture: CaptureCall
) -> None:
    probed = Config.model_validate({**config.model_dump(), "target": {"sparsifier": "top_k", "target_bytes": 20}})
    k = run_capture(probed).recipe_id
    with Lake.open(location_of(config)) as lake:
        (row,) = lake.sql("SELECT recipe FROM store.recipes WHERE recipe_id = ?", [k]).to_pylist()
    same = {"sparsifier": "top_k", "k": orjson.loads(row["recipe"])["sparsifier"]["k"]}
    elsewhere = config.lake.model_copy(update={"path": config.lake.path.with_name("other")})
    both = Config.model_validate({**probed.model_dump(), "targets": [same], "lake": elsewhere.model_dump()})
    with pytest.raises(SettingsError, match="expected targets that differ"):
        run_capture(both)
    assert query(location_of(both), "SELECT count(*) AS n FROM documents").to_pylist() == [{"n": 0}]
