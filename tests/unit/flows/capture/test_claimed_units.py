"""Runs that claim documents of the same corpora compute each of them once, whatever their pace."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from logitlake.flows.capture.claimed_units import ClaimedUnits
from logitlake.flows.capture.preparation import Prepared, prepare
from logitlake.pipeline.settings.models import Config
from logitlake.storage.writing.claims import NoClaims


@dataclass
class SharedBoard:
    """What the catalog's server holds: the claims of living runs, and the stored documents."""

    claims: dict[str, str] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    turn: threading.RLock = field(default_factory=threading.RLock)

    def end(self, holder: str) -> None:
        """The run ended, or its leases expired."""
        with self.turn:
            self.claims = {doc_id: other for doc_id, other in self.claims.items() if other != holder}


@dataclass
class ClaimsOnBoard:
    """Claims of one run, by the rules of logitlake.storage.writing.claims."""

    board: SharedBoard
    holder: str
    shared = True

    def of_others(self, doc_ids: Sequence[str]) -> set[str]:
        return {doc_id for doc_id in doc_ids if self.board.claims.get(doc_id, self.holder) != self.holder}

    def take(self, doc_ids: Sequence[str]) -> set[str]:
        with self.board.turn:
            taken = set(doc_ids) - self.of_others(doc_ids)
            self.board.claims |= dict.fromkeys(taken, self.holder)
        return taken

    def release(self, doc_ids: Sequence[str]) -> None:
        with self.board.turn:
            for doc_id in doc_ids:
                assert self.board.claims.pop(doc_id) == self.holder


@pytest.fixture
def prepared(config: Config) -> Prepared:
    return prepare(config)


def _run(
    prepared: Prepared, board: SharedBoard, holder: str, **options: Any
) -> tuple[ClaimedUnits, Iterator[list[str]]]:
    """The units of a run, and its work: each step commits the unit before and claims the next."""
    known = [set(board.stored)]

    def make_plan(claimed):
        known.append(set(board.stored))
        return prepared.plan(lambda doc_ids: known[-1] & set(doc_ids), claimed=claimed, is_capped=False)

    claims = ClaimsOnBoard(board, holder)
    held = {"held": lambda ids: board.stored & set(ids), "poll_seconds": 0.0}
    units = ClaimedUnits(make_plan, claims=claims, **held, **options)

    def work() -> Iterator[list[str]]:
        for unit in units:
            doc_ids = [tokenized.document.doc_id for tokenized in unit.documents]
            yield doc_ids
            board.stored |= set(doc_ids)
            claims.release(doc_ids)
        board.end(holder)

    return units, work()


def _all_documents(prepared: Prepared) -> set[str]:
    return {d.document.doc_id for unit in prepared.plan(lambda doc_ids: set()) for d in unit.documents}


@pytest.mark.parametrize("seed", range(3))
def test_runs_at_any_pace_compute_every_document_once(prepared: Prepared, seed: int) -> None:
    board = SharedBoard()

    def compute(number: int) -> list[str]:
        noise, computed = random.Random(f"{seed} {number}"), []
        for doc_ids in _run(prepared, board, f"run {number}")[1]:
            computed += doc_ids
            time.sleep(noise.uniform(0, 0.01))
        return computed

    with ThreadPoolExecutor(3) as threads:
        computed = [doc_id for own in threads.map(compute, range(3)) for doc_id in own]
    assert sorted(computed) == sorted(_all_documents(prepared))


def test_what_a_run_that_died_had_claimed_is_computed_by_another(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = SharedBoard()
    _, dead = _run(prepared, board, "dead")
    lost = next(dead)
    units, work = _run(prepared, board, "alive")
    monkeypatch.setattr("time.sleep", lambda seconds: board.end("dead"))
    computed = [doc_id for doc_ids in work for doc_id in doc_ids]
    assert sorted(computed) == sorted(_all_documents(prepared))
    assert set(computed[-len(lost) :]) == set(lost)
    assert (units.summary.claimed, units.documents_elsewhere) == (len(lost), 0)


def test_documents_that_others_computed_are_counted_as_such(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = SharedBoard()
    _, other = _run(prepared, board, "other")
    of_other = next(other)
    units, work = _run(prepared, board, "this")
    monkeypatch.setattr("time.sleep", lambda seconds: next(other))
    computed = [doc_id for doc_ids in work for doc_id in doc_ids]
    assert not set(of_other) & set(computed)
    assert units.documents_elsewhere >= len(of_other)
    assert len(computed) + units.documents_elsewhere == len(_all_documents(prepared))


def test_a_run_without_claims_has_the_units_of_its_plan(prepared: Prepared, tmp_path: Path) -> None:
    def make_plan(claimed):
        return prepared.plan(lambda doc_ids: set(), claimed=claimed)

    def held(doc_ids: list[str]) -> set[str]:
        raise AssertionError("an embedded lake is asked once, at the start")

    units = list(ClaimedUnits(make_plan, claims=NoClaims(), held=held, poll_seconds=0.0))
    assert [len(unit.documents) for unit in units] == [len(unit.documents) for unit in make_plan(lambda ids: set())]


def test_a_run_frees_what_others_need_before_it_waits_for_them(prepared: Prepared) -> None:
    """The other one holds a claim and waits for the teacher slot, as two captures of one Prefect server do."""
    board = SharedBoard()
    _, other = _run(prepared, board, "other")
    claimed = next(other)

    def free_the_slot() -> None:
        for _ in other:
            pass

    _, work = _run(prepared, board, "holder of the slot", before_waiting=free_the_slot)
    computed = [doc_id for doc_ids in work for doc_id in doc_ids]
    assert sorted(computed + claimed) == sorted(_all_documents(prepared))


def test_a_commit_that_failed_ends_the_run_before_it_waits(prepared: Prepared) -> None:
    def commit_failed() -> None:
        raise OSError("the bucket is away")

    board = SharedBoard()
    next(_run(prepared, board, "other")[1])
    _, work = _run(prepared, board, "this", before_waiting=commit_failed)
    with pytest.raises(OSError, match="the bucket is away"):
        list(work)


def test_a_run_whose_time_is_over_leaves_documents_to_the_others(prepared: Prepared) -> None:
    board = SharedBoard()
    of_other = next(_run(prepared, board, "other")[1])
    units, work = _run(prepared, board, "this", is_over=lambda: True)
    computed = [doc_id for doc_ids in work for doc_id in doc_ids]
    assert sorted(computed + of_other) == sorted(_all_documents(prepared))
    assert units.documents_elsewhere == len(of_other)


def test_a_cap_counts_the_tokens_of_this_run_and_gives_the_rest_back(prepared: Prepared) -> None:
    board = SharedBoard()
    of_other = next(_run(prepared, board, "other")[1])
    plan = prepared.plan(lambda doc_ids: set())
    tokens = {d.document.doc_id: d.n_tokens for unit in plan for d in unit.documents}
    rest = [doc_id for doc_id in tokens if doc_id not in of_other]
    cap = sum(tokens[doc_id] for doc_id in rest[:3]) + 1
    units, work = _run(prepared, board, "this", max_tokens=cap)
    computed = [doc_id for doc_ids in work for doc_id in doc_ids]
    assert (computed, units.is_capped) == (rest[:3], True)
    assert set(board.claims) == set(of_other)
