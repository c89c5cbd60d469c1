"""A wait for the first rank that may take hours.

The barrier of accelerate ends after `ddp_timeout`, 30 minutes by default, and the watchdog of NCCL then kills the job.
A longer timeout for everything would hide ranks that hang in the training.
"""

from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist
from accelerate import Accelerator

_LONGEST = timedelta(days=7)


def long_wait(accelerator: Accelerator, *, longest: timedelta = _LONGEST) -> Callable[[], None]:
    """Every rank must call it, and later the function that it returns: that one waits for all ranks, up to `longest`.

    It waits on the CPU, by gloo. Raises RuntimeError at once if the process of a rank ends.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.is_gloo_available()):
        return accelerator.wait_for_everyone
    group = dist.new_group(backend="gloo", timeout=longest)

    def wait() -> None:
        dist.barrier(group=group)
        dist.destroy_process_group(group)

    return wait
