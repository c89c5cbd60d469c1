"""Teacher slots: how many teachers may run at once on one Prefect server, over all lakes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import get_current_settings

log = logging.getLogger(__name__)

TEACHERS = "logitlake-teachers"
# The slot of a killed run is free again after this time.
_LEASE_SECONDS = 60


@contextmanager
def one_teacher(limit: int) -> Iterator[None]:
    """Wait for one of `limit` teacher slots, and hold it for the time of the block.

    An existing limit on the server is not changed by `limit`. Without a server there is nothing to wait for. If the
    server goes away while the teacher runs, the slot is lost and the run goes on.
    """
    if not get_current_settings().api.url:
        yield
        return
    ensure_limit(limit)
    slot = concurrency(
        TEACHERS, occupy=1, strict=True, lease_duration=_LEASE_SECONDS, raise_on_lease_renewal_failure=False
    )
    slot.__enter__()
    try:
        yield
    finally:
        try:
            slot.__exit__(None, None, None)
        except (httpx.HTTPError, PrefectException, OSError) as error:
            log.warning(
                "could not release the teacher slot; it expires in %d s: Prefect's server did not answer (%s)",
                *(_LEASE_SECONDS, error),
            )


def ensure_limit(limit: int) -> None:
    """Create the limit if it does not exist."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(TEACHERS)
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=TEACHERS, limit=limit))
