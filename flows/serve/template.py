"""The file `prefect.yaml`: part of the package, and in a checkout the one at its root."""

from pathlib import Path

import logitlake.flows
from logitlake.storage.errors import LogitlakeError

NAME = "prefect.yaml"


def path() -> Path:
    """Raises LogitlakeError if the installation lacks the file."""
    package = Path(logitlake.flows.__path__[0])
    for candidate in (package / NAME, package.resolve().parent / NAME):
        if candidate.is_file():
            return candidate
    raise LogitlakeError(f"{package / NAME} is missing: install logitlake again")
