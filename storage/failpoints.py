"""Named places at which a test may kill the process, to prove that whatever was committed is whole.

Costs one dictionary look-up where nothing is set. The names are part of the tests' contract with the code.
"""

import os
import signal

ENVIRONMENT_VARIABLE = "LOGITLAKE_KILL_AT"
FAILPOINTS = ("file-staged", "file-renamed", "transaction-open", "rows-registered", "committed")


def reach(name: str) -> None:
    """Die here, without any clean-up, if the environment says so."""
    assert name in FAILPOINTS, name
    if os.environ.get(ENVIRONMENT_VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
