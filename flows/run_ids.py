"""The id of a run: when it began, and enough chance that two runs of one second differ."""

import secrets
from datetime import UTC, datetime


def new_run_id(began: datetime | None = None) -> str:
    """Such as `20260301T020000-9f3c1a`; ids sort by time. `began` (UTC) is now unless it is given."""
    return f"{began or datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
