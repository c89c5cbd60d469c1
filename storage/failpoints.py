"""Named places in the code at which a test may kill the process, to prove that what was committed is complete.

`name` kills when the place is reached for the first time, `name:3` for the third time; several places are separated by
commas. Costs one dictionary look-up if nothing is set. Tests rely on the names.
"""

import os
import signal
from collections import Counter

ENVIRONMENT_VARIABLE = "LOGITLAKE_KILL_AT"
# The signal by name; SIGKILL if it is not set.
SIGNAL_VARIABLE = "LOGITLAKE_KILL_SIGNAL"
# Places inside a commit, and places between the steps of flows.
FAILPOINTS = ("file-staged", "file-renamed", "transaction-open", "rows-registered", "committed")
FLOW_FAILPOINTS = (
    *("unit-computed", "candidate-planned", "student-training", "student-trained", "student-evaluated"),
    *("student-registered", "candidate-decided"),
    *("units-verified", "shards-merged", "snapshots-expired", "files-removed"),
)
# Places in the migration of an older lake.
MIGRATION_FAILPOINTS = ("lake-note-migrated", "columns-added", "tables-migrated", "rows-hashed")
# Places in a rebuild.
REBUILD_FAILPOINTS = ("shard-taken", "catalog-rebuilt", "catalog-renamed")
# Places in runs that ask a Prefect server for a slot.
SERVER_FAILPOINTS = ("teacher-wanted",)
# Places in a repair.
REPAIR_FAILPOINTS = ("shards-salvaged", "file-ended", "rows-restored")
# Places in a copy of a lake.
COPY_FAILPOINTS = ("file-copied", "catalog-copied")
ALL = (
    *FAILPOINTS,
    *FLOW_FAILPOINTS,
    *SERVER_FAILPOINTS,
    *MIGRATION_FAILPOINTS,
    *REBUILD_FAILPOINTS,
    *REPAIR_FAILPOINTS,
    *COPY_FAILPOINTS,
)
_reached: Counter[str] = Counter()


def reach(name: str) -> None:
    """Kill this process here if the environment variable names this place. SIGNAL_VARIABLE may name another signal:
    SIGSTOP holds the process here until the test kills it."""
    assert name in ALL, name
    setting = os.environ.get(ENVIRONMENT_VARIABLE)
    if not setting:
        return
    _reached[name] += 1
    for place in setting.split(","):
        failpoint, _, times = place.partition(":")
        if failpoint == name and _reached[name] == int(times or 1):
            os.kill(os.getpid(), signal.Signals[os.environ.get(SIGNAL_VARIABLE, "SIGKILL")])
