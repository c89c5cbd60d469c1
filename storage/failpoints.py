"""Named places in the code at which a test may kill the process, to prove that what was committed is complete.

`name` kills when the place is reached for the first time, `name:3` for the third time. Costs one dictionary look-up if
nothing is set. Tests rely on the names.
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
    *("student-registered", "candidate-decided", "shards-merged", "snapshots-expired", "files-removed"),
)
# Places in the migration of an older lake.
MIGRATION_FAILPOINTS = ("lake-note-migrated", "columns-added", "tables-migrated", "rows-hashed")
# Places in a rebuild.
REBUILD_FAILPOINTS = ("shard-taken", "catalog-rebuilt", "catalog-renamed")
# Places in a repair.
REPAIR_FAILPOINTS = ("shards-salvaged", "file-ended", "rows-restored")
ALL = FAILPOINTS + FLOW_FAILPOINTS + MIGRATION_FAILPOINTS + REBUILD_FAILPOINTS + REPAIR_FAILPOINTS
_reached: Counter[str] = Counter()


def reach(name: str) -> None:
    """Kill this process here, if the environment variable names this place: without any clean-up, unless another signal
    than SIGKILL is asked for."""
    assert name in ALL, name
    setting = os.environ.get(ENVIRONMENT_VARIABLE)
    if not setting:
        return
    failpoint, _, times = setting.partition(":")
    _reached[name] += 1
    if failpoint == name and _reached[name] == int(times or 1):
        os.kill(os.getpid(), signal.Signals[os.environ.get(SIGNAL_VARIABLE, "SIGKILL")])
