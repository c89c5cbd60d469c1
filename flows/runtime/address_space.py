"""The limit of a process on its address space (`ulimit -v`).

Libraries reserve far more addresses than they use memory, and end the process without a word where they get none: so
the limit is compared with what they reserve before they are imported.
"""

import os
import resource

from logitlake.storage.errors import LogitlakeError

# What the commands were measured to reserve on two cores (2.8 GB), and a thread's stack and heap.
_COMMAND_BYTES = 4 << 30
_THREAD_BYTES = 128 << 20
# The JavaScript engine of the plotting library reserves 64 GiB before it draws anything.
PLOTTING_BYTES = 80 << 30


def command_bytes() -> int:
    """Bytes of address space that a command needs on this machine."""
    return _COMMAND_BYTES + _THREAD_BYTES * (os.cpu_count() or 1)


def require_address_space(n_bytes: int, what: str) -> None:
    """Raise LogitlakeError if this process may not have `n_bytes` of address space."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or soft >= n_bytes:
        return
    raise LogitlakeError(
        f"out of address space: {what} needs {n_bytes >> 20:,} MiB, and the limit of this process is {soft >> 20:,} "
        "MiB (most is reserved, not used): run `ulimit -v unlimited`, and limit memory by a cgroup instead (systemd's "
        "MemoryMax, docker's --memory)"
    )
