"""One teacher at a time on one Prefect server, whichever lake it works for; the lake's own lock holds in any case."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import get_current_settings

from logitlake.flows.terminal.output import say

TEACHERS = "logitlake-teachers"
# A run that was killed gives its place back after this time.
_LEASE_SECONDS = 60


@contextmanager
def one_teacher(limit: int) -> Iterator[None]:
    """Wait until fewer than `limit` teachers run, and keep one place for the time of the block.

    `limit` is what a new limit is made with: one that exists stays as somebody may have set it. With no server there is
    nobody to wait for. A server that goes away while the teacher runs costs the place, not the run.
    """
    if not get_current_settings().api.url:
        yield
        return
    ensure_limit(limit)
    place = concurrency(
        TEACHERS, occupy=1, strict=True, lease_duration=_LEASE_SECONDS, raise_on_lease_renewal_failure=False
    )
    place.__enter__()
    try:
        yield
    finally:
        try:
            place.__exit__(None, None, None)
        except (httpx.HTTPError, PrefectException, OSError) as error:
            say(f"a place among the teachers is free again in {_LEASE_SECONDS} s: Prefect's server is gone ({error})")


def ensure_limit(limit: int) -> None:
    """Make the limit if there is none."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(TEACHERS)
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=TEACHERS, limit=limit))
