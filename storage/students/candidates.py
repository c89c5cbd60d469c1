"""What a redistillation has planned and not decided yet, so that a killed one goes on where it was.

Kept as events of runs, each appended in one transaction. A candidate that was planned and not decided is finished
first, whatever has arrived meanwhile.
"""

import json
from dataclasses import asdict, dataclass

from logitlake.storage.lake.lake import Lake
from logitlake.storage.writing.runs import note_run

KIND = "redistill"
_PLANNED = "planned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A student to be trained on from `current` (None: the first one) on a row set, and what its id will be."""

    student_id: str
    alias: str
    current: str | None
    recipe_id: str
    row_set_id: str
    where: str | None
    up_to_commit: int


def note_planned(lake: Lake, run_id: str, candidate: Candidate) -> None:
    """Write down what is going to be trained, before the first step of it."""
    note_run(lake, run_id, _PLANNED, kind=KIND, recipe_id=candidate.recipe_id, candidate=asdict(candidate))


def undecided(lake: Lake, alias: str, current: str | None) -> list[Candidate]:
    """Candidates that were planned against the student of now and that nothing was decided about, the oldest first.

    Ordered by what they were to see, not by a clock, which may have been set back.
    """
    rows = lake.sql("SELECT detail FROM store.run_events WHERE (kind, event) = (?, ?)", [KIND, _PLANNED])
    planned = {Candidate(**json.loads(detail)["candidate"]) for detail in rows["detail"].to_pylist()}
    candidates = [c for c in planned if (c.alias, c.current) == (alias, current)]
    return sorted((c for c in candidates if not is_decided(lake, c.student_id, alias)), key=lambda c: c.up_to_commit)


def is_planned(lake: Lake, student_id: str) -> bool:
    """Whether a student was planned as a candidate, decided about or not."""
    rows = lake.sql("SELECT detail FROM store.run_events WHERE (kind, event) = (?, ?)", [KIND, _PLANNED])
    return any(json.loads(detail)["candidate"]["student_id"] == student_id for detail in rows["detail"].to_pylist())


def is_decided(lake: Lake, student_id: str, alias: str) -> bool:
    """Whether a student was promoted or rejected before. One that was rolled back is not tried again either."""
    return bool(
        lake.row("SELECT 1 AS present FROM promotions WHERE (alias, student_id) = (?, ?) LIMIT 1", [alias, student_id])
    )
