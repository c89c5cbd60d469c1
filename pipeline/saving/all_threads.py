"""All processors for work that one rank does while the others wait: torchrun gives each rank one thread."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def all_threads() -> Iterator[None]:
    """As many threads of torch inside as this process has processors, or more if it had more; then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(before, _processors()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
