"""The home directory of a user who has none. Imports nothing heavy: every start of the program reads it."""

import os
from pathlib import Path

# HOME of a user without a home directory, set by the command line.
NO_HOME = "/nonexistent"


def has_home() -> bool:
    """Whether `~` stands for a directory of this user."""
    try:
        return os.environ.get("HOME") != NO_HOME and Path.home().is_absolute()
    except RuntimeError:  # HOME is unset, and passwd does not know the user
        return False
