"""Named places at which a test may kill the process, to prove that whatever was committed is whole.

`name` kills at the first time that the place is reached, `name:3` at the third. Costs one dictionary look-up where
nothing is set. The names are part of the tests' contract with the code.
"""

import os
import signal
from collections import Counter

ENVIRONMENT_VARIABLE = "LOGITLAKE_KILL_AT"
# Places inside a commit, and places between the steps of flows.
FAILPOINTS = ("file-staged", "file-renamed", "transaction-open", "rows-registered", "committed")
FLOW_FAILPOINTS = (
    *("unit-computed", "candidate-planned", "student-training", "student-trained", "student-evaluated"),
    *("student-registered", "candidate-decided", "shards-merged", "snapshots-expired", "files-removed"),
)
# Places in the migration of an older lake.
MIGRATION_FAILPOINTS = ("lake-note-migrated", "columns-added", "tables-migrated", "rows-hashed")
_reached: Counter[str] = Counter()


def reach(name: str) -> None:
    """Die here, without any clean-up, if the environment says so."""
    assert name in FAILPOINTS + FLOW_FAILPOINTS + MIGRATION_FAILPOINTS, name
    setting = os.environ.get(ENVIRONMENT_VARIABLE)
    if not setting:
        return
    failpoint, _, times = setting.partition(":")
    _reached[name] += 1
    if failpoint == name and _reached[name] == int(times or 1):
        os.kill(os.getpid(), signal.SIGKILL)
