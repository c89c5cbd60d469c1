"""Teacher slots: how many teachers may run at once on one Prefect server, over all lakes."""

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, FlowRunFilterTags
from prefect.client.schemas.objects import StateType
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectException
from prefect.runtime import flow_run
from prefect.settings import get_current_settings

from logitlake.flows.runtime.environment import TAG
from logitlake.storage.errors import LakeBusyError
from logitlake.storage.failpoints import reach

log = logging.getLogger(__name__)

TEACHERS = "logitlake-teachers"
_FREE = f"prefect gcl update {TEACHERS} --active-slots 0"
# The slot of a killed run is free again after this time.
_LEASE_SECONDS = 60
_REPORT_SECONDS = 60.0
_SECONDS_BETWEEN_ATTEMPTS = 5.0
_BOUND_SECONDS = 24 * 3600.0
_SHOWN_RUNS = 5


@contextmanager
def one_teacher(limit: int) -> Iterator[None]:
    """Wait for one of `limit` teacher slots, and hold it for the time of the block.

    An existing limit on the server is not changed by `limit`. Without a server there is nothing to wait for. If the
    server goes away while the teacher runs, the run goes on, and its slot is free at the end if the server is back.
    Raises LakeBusyError after a day without a free slot.
    """
    if not get_current_settings().api.url:
        yield
        return
    reach("teacher-wanted")
    slot = _slot(limit)
    try:
        yield
    finally:
        try:
            _release(slot)
        except (httpx.HTTPError, PrefectException, OSError) as error:
            log.warning(
                "could not release the teacher slot: Prefect's server did not answer (%s). If the slot is still taken "
                "in %d s, run `%s`",
                *(error, _LEASE_SECONDS, _FREE),
            )


def ensure_limit(limit: int) -> None:
    """Create the limit if it does not exist."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(TEACHERS)
        except ObjectNotFound:
            # Another run may create it at the same time.
            with suppress(ObjectAlreadyExists):
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=TEACHERS, limit=limit))


def _slot(limit: int) -> AbstractContextManager[None]:
    """A teacher slot that is taken. Logs every minute what it waits for; raises LakeBusyError after the bound.

    A server that goes away meanwhile is waited for, too.
    """
    began = time.monotonic()
    while True:
        slot = concurrency(
            TEACHERS,
            occupy=1,
            strict=True,
            timeout_seconds=_REPORT_SECONDS,
            lease_duration=_LEASE_SECONDS,
            raise_on_lease_renewal_failure=False,
        )
        try:
            ensure_limit(limit)
            slot.__enter__()
            return slot
        except TimeoutError:
            reason = _reason()
        except (ConcurrencySlotAcquisitionError, httpx.HTTPError, PrefectException, OSError) as error:
            cause = error.__cause__ if isinstance(error, ConcurrencySlotAcquisitionError) else error
            if _is_refused(cause):
                raise
            reason = f"Prefect's server does not answer ({cause})"
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
        waited = time.monotonic() - began
        if waited >= _BOUND_SECONDS:
            raise LakeBusyError(f"no teacher slot was free within {_BOUND_SECONDS:.0f} s: {reason}")
        log.warning("waiting for a teacher slot for %.0f s: %s", waited, reason)


def _release(slot: AbstractContextManager[None]) -> None:
    """Free the slot, also on a server that was started again and has forgotten the lease.

    Prefect's default keeps leases in memory and the number of taken slots in the database: after a restart it answers
    that the slot is released, and the slot stays taken.
    """
    with get_client(sync_client=True) as client:
        try:
            before = client.read_global_concurrency_limit_by_name(TEACHERS).active_slots
        finally:
            slot.__exit__(None, None, None)
        after = client.read_global_concurrency_limit_by_name(TEACHERS).active_slots
        # Another run may have taken a slot between the two answers. Every run holds one slot at most.
        if after >= before and after > len(_other_runs(client)):
            client.release_concurrency_slots([TEACHERS], slots=1, occupancy_seconds=_LEASE_SECONDS)


def _is_refused(cause: BaseException | None) -> bool:
    """Whether the server has answered and refused: there is no such limit, for one. Without an answer: False."""
    if isinstance(cause, httpx.HTTPStatusError):
        return not cause.response.is_server_error
    return not isinstance(cause, httpx.HTTPError | OSError)


def _reason() -> str:
    """Who holds the slots, and the command that frees them."""
    try:
        with get_client(sync_client=True) as client:
            found = client.read_global_concurrency_limit_by_name(TEACHERS)
            others = _other_runs(client)
    except (httpx.HTTPError, PrefectException, OSError) as error:
        return f"Prefect's server does not answer ({error})"
    return (
        f"{found.active_slots} of {found.limit} slots of {TEACHERS} are taken; other runs: "
        f"{', '.join(others[:_SHOWN_RUNS]) or 'none'}. If their processes are dead, run "
        f"`{_FREE}`"
    )


def _other_runs(client: SyncPrefectClient) -> list[str]:
    """Names and ids of the runs under way that may hold a slot: all but this one and those that it is part of."""
    begun = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING]))
    of_logitlake = FlowRunFilter(tags=FlowRunFilterTags(all_=[TAG]), state=begun)
    own = {flow_run.get_id(), flow_run.get_parent_flow_run_id(), flow_run.get_root_flow_run_id()}
    runs = client.read_flow_runs(flow_run_filter=of_logitlake, limit=100)
    return [f"{run.name} ({run.id})" for run in runs if str(run.id) not in own]
