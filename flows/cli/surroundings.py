"""What the environment may lack: a home directory, open files, address space. Arranged or refused at the start."""

import os
import resource

from logitlake.flows.runtime.address_space import command_bytes, require_address_space
from logitlake.pipeline.settings.home import NO_HOME, has_home

_OPEN_FILES = 4096


def arrange_home() -> None:
    """Set HOME where the user has none: unset or relative, and no entry in passwd, as in many containers.

    Libraries raise an error of their own without a home directory, and do without one that can't be written.
    """
    if not has_home():
        os.environ["HOME"] = NO_HOME


def allow_open_files() -> None:
    """Raise the number of files that may be open to what the system allows, where it is low by default (256)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _OPEN_FILES:
        allowed = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def open_files() -> int:
    """How many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def require_memory() -> None:
    """Raise LogitlakeError if the libraries of a command can't start in this process."""
    require_address_space(command_bytes(), "a command")
