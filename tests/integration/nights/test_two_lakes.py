"""Two lakes on one Prefect server, and a second start of the same one: nothing is taken over, nothing is forgotten."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate, WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Running

from logitlake.flows.runtime.environment import TAG
from logitlake.flows.runtime.limits import TEACHERS, ensure_limit
from logitlake.flows.serve import dead_runs
from logitlake.flows.serve.automations import ZOMBIES, arrange_automations
from logitlake.flows.serve.dead_runs import crash_dead_runs
from logitlake.flows.serve.deployments import deployments, remove_other_deployments
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config, ScheduleSettings

pytestmark = pytest.mark.slow


def test_two_lakes_have_deployments_of_their_own_on_one_server(server: Any, config: Config, tmp_path: Path) -> None:
    lake = config.lake.model_copy(update={"path": tmp_path / "other"})
    other = config.model_copy(update={"lake": lake})
    with temporary_settings({PREFECT_API_URL: server.api}), get_client(sync_client=True) as client:
        own, others = deployments(config, None, []), deployments(other, None, [])
        ids = {deployment.apply() for deployment in [*own, *others]}
        assert len(ids) == 6
        assert {deployment.apply() for deployment in own} < ids
        remove_other_deployments(own, location_of(config))
        assert {deployment.id for deployment in client.read_deployments()} == ids


def test_deployments_of_the_former_place_of_a_lake_are_removed_and_those_of_work_pools_stay(
    server: Any, config: Config, tmp_path: Path
) -> None:
    lake = config.lake.model_copy(update={"path": tmp_path / "former"})
    former = config.model_copy(update={"lake": lake})
    with temporary_settings({PREFECT_API_URL: server.api}), get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="elsewhere", type="process"))
        pooled, *_ = deployments(
            config.model_copy(update={"lake": lake.model_copy(update={"path": tmp_path / "x"})}), None
        )
        pooled.name, pooled.work_pool_name = "capture", "elsewhere"
        pooled_id = pooled.apply()
        left_over = {deployment.apply() for deployment in deployments(former, None, own_server=True)}
        served = deployments(config, None, own_server=True)
        own = {deployment.apply() for deployment in served}
        remove_other_deployments(served, location_of(config))
        present = {deployment.id for deployment in client.read_deployments()}
        assert own <= present and pooled_id in present
        assert not left_over & present


def test_only_runs_of_this_lake_are_marked_as_crashed_and_no_slot_stays_taken(
    server: Any, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of another lake, or of a work pool, may have its process on another machine."""
    lake = config.lake.model_copy(update={"path": tmp_path / "elsewhere"})
    other = config.model_copy(update={"lake": lake})
    with temporary_settings({PREFECT_API_URL: server.api}), get_client(sync_client=True) as client:
        monkeypatch.setattr(dead_runs, "live_runs", set)
        ensure_limit(1)
        client.update_global_concurrency_limit(TEACHERS, GlobalConcurrencyLimitUpdate(active_slots=1))
        runs = []
        for lake_config in (config, other):
            deployment_id = deployments(lake_config, None)[0].apply()
            run = client.create_flow_run_from_deployment(deployment_id, state=Running(), tags=[TAG])
            runs.append(run.id)
        crash_dead_runs(location_of(config))
        states = [client.read_flow_run(run_id).state for run_id in runs]
        assert [state.type for state in states if state] == [StateType.CRASHED, StateType.RUNNING]
        assert client.read_global_concurrency_limit_by_name(TEACHERS).active_slots == 0
        client.set_flow_run_state(runs[1], Cancelled(), force=True)


def test_an_unchanged_automation_is_left_alone_and_a_changed_one_is_updated(server: Any) -> None:
    """Prefect forgets the runs that an automation watches when it is updated."""

    def updated() -> str:
        with urllib.request.urlopen(f"{server.api}/automations/{Automation.read(name=ZOMBIES).id}") as answer:
            return str(json.loads(answer.read())["updated"])

    with temporary_settings({PREFECT_API_URL: server.api}):
        arrange_automations(ScheduleSettings(zombie_seconds=90))
        first = updated()
        arrange_automations(ScheduleSettings(zombie_seconds=90))
        assert updated() == first
        arrange_automations(ScheduleSettings(zombie_seconds=100))
        assert updated() != first
        assert Automation.read(name=ZOMBIES).trigger.within.total_seconds() == 100
