"""Runs whose process has died without telling Prefect: mark them as crashed, so that their slots are free again."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Crashed

from logitlake.flows.runtime.environment import TAG
from logitlake.flows.runtime.limits import TEACHERS
from logitlake.flows.serve.deployments import own_deployments
from logitlake.flows.serve.live_runs import live_runs
from logitlake.storage.connection.location import LakeLocation

log = logging.getLogger(__name__)

_BEGUN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_PERIOD_SECONDS = 20.0
# scheduled-redistill calls redistill, which calls capture and distill.
_DEPTH = 2


def crash_dead_runs(location: LakeLocation) -> None:
    """Mark every begun run of this lake's deployments without a process as crashed, and free the slots of teachers.

    Only for the server of this machine, before `serve` starts its first run: these runs are on this machine. Runs of
    work pools and of other lakes are left alone, for their processes may be elsewhere.
    """
    alive = live_runs()
    with get_client(sync_client=True) as client:
        own = {deployment.id for deployment in own_deployments(client, location)}
        for run in _begun_runs(client):
            if run.deployment_id in own and run.id not in alive:
                _crash(client, run, "its process was killed, or the machine was restarted")
        crash_dead_subflows(client)
        # Without a run here its leases were removed (`remove_leases`): no other run can give a slot back.
        if not alive or not _begun_runs(client):
            client.update_global_concurrency_limit(TEACHERS, GlobalConcurrencyLimitUpdate(active_slots=0))


def crash_dead_subflows(client: SyncPrefectClient) -> None:
    """Mark begun runs as crashed whose calling run has ended: they were in the process of that run."""
    for _ in range(_DEPTH):
        for run in _begun_runs(client):
            if _caller_has_ended(client, run):
                _crash(client, run, "the run that called it has ended")


@contextmanager
def subflows_watched() -> Iterator[None]:
    """Look for dead subflows in a thread, again and again, for the time of the block."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_PERIOD_SECONDS):
            try:
                with get_client(sync_client=True) as client:
                    crash_dead_subflows(client)
            except (httpx.HTTPError, PrefectException, OSError) as error:
                log.warning("could not look for dead runs: Prefect's server did not answer (%s)", error)

    threading.Thread(target=watch, name="dead-runs", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _begun_runs(client: SyncPrefectClient) -> Sequence[FlowRun]:
    begun = FlowRunFilterState(type=FlowRunFilterStateType(any_=_BEGUN))
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[TAG]), state=begun), limit=200
    )


def _caller_has_ended(client: SyncPrefectClient, run: FlowRun) -> bool:
    if run.parent_task_run_id is None:
        return False
    try:
        caller_id = client.read_task_run(run.parent_task_run_id).flow_run_id
        if caller_id is None:
            return False
        state = client.read_flow_run(caller_id).state
    except ObjectNotFound:
        return False
    return state is not None and state.is_final()


def _crash(client: SyncPrefectClient, run: FlowRun, reason: str) -> None:
    """Not by force: a run that has ended in the meantime keeps its state."""
    log.warning("run %s (%s): %s; marked as crashed", run.name, run.id, reason)
    client.set_flow_run_state(run.id, Crashed(message=f"{reason[0].upper()}{reason[1:]}."))
