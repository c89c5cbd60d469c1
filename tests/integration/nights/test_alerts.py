"""Which runs the automations of `serve` act on: dead ones and cancelled ones, and not those that have completed."""

import json
import subprocess
import sys
import time
import urllib.request
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Pending, Running

from logitlake.flows.runtime.environment import TAG
from logitlake.flows.runtime.events import tell_end
from logitlake.flows.serve.automations import crash_zombies
from logitlake.flows.serve.deployments import deployments
from logitlake.pipeline.settings.models import Config

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 240


@flow
def some_flow() -> None:
    """A run of it is made without a process."""


def state_of(client: SyncPrefectClient, run_id: UUID) -> str:
    state = client.read_flow_run(run_id).state
    return state.type.value if state else ""


def heartbeat(run_id: UUID) -> None:
    """What the process of a run sends."""
    tag = {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}
    emit_event(
        "prefect.flow-run.heartbeat", resource={"prefect.resource.id": f"prefect.flow-run.{run_id}"}, related=[tag]
    )


def acted_on(api: str) -> set[str]:
    """The runs that an automation has acted on, with or without success."""
    asked = {"filter": {"event": {"prefix": ["prefect.automation.action"]}}, "limit": 50}
    request = urllib.request.Request(f"{api}/events/filter", json.dumps(asked).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        events = json.loads(answer.read())["events"]
    resources = {related["prefect.resource.id"] for event in events for related in event["related"]}
    return {name.removeprefix("prefect.flow-run.") for name in resources if name.startswith("prefect.flow-run.")}


def test_a_run_that_died_is_marked_as_crashed_and_one_that_has_completed_is_left_alone(server: Any) -> None:
    """The heartbeat of a short run arrives after its end: the end is told by the server, the heartbeat by the run."""
    with temporary_settings({PREFECT_API_URL: server.api}), get_client(sync_client=True) as client:
        automation = crash_zombies(10)
        automation.name = "soon"
        made = automation.create()
        assert isinstance(made, Automation)
        completed = client.create_flow_run(some_flow, state=Running(), tags=[TAG])
        client.set_flow_run_state(completed.id, Completed(), force=True)
        heartbeat(completed.id)
        tell_end(some_flow, completed, Completed())
        dead = client.create_flow_run(some_flow, state=Running(), tags=[TAG])
        heartbeat(dead.id)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while str(dead.id) not in acted_on(server.api):
            assert time.monotonic() < deadline, "the dead run was not noticed"
            time.sleep(1)
        assert acted_on(server.api) == {str(dead.id)}
        assert [state_of(client, run.id) for run in (dead, completed)] == ["CRASHED", "COMPLETED"]
        made.delete()


def test_a_run_that_prefect_cancels_tells_somebody(watched: Any, mailbox: Any, config: Config) -> None:
    """A stuck run holds the place of its deployment: every run after it is cancelled."""
    with temporary_settings({PREFECT_API_URL: watched.api}), get_client(sync_client=True) as client:
        deployment_id = deployments(config, None)[0].apply()
        assert isinstance(deployment_id, UUID)
        runs = [client.create_flow_run_from_deployment(deployment_id) for _ in range(2)]
        for run in runs:
            client.set_flow_run_state(run.id, Pending())
        assert [state_of(client, run.id) for run in runs] == ["PENDING", "CANCELLED"]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not [text for text in mailbox.messages if runs[1].name in text]:
            assert time.monotonic() < deadline, mailbox.messages
            time.sleep(1)
        (told,) = [text for text in mailbox.messages if runs[1].name in text]
        assert "Cancelled. Deployment concurrency limit reached." in told
        client.delete_flow_run(runs[0].id)


def test_each_flow_tells_its_end() -> None:
    """In a process of its own: another test may have loaded the flows with other settings."""
    program = """
from logitlake.flows.capture.flow import capture, rest_of_capture
from logitlake.flows.distill.flow import distill
from logitlake.flows.maintain.flow import maintain
from logitlake.flows.redistill.flow import redistill, rest_of_redistill
from logitlake.flows.runtime.events import tell_end
from logitlake.flows.serve import deployments

flows = [capture, rest_of_capture(None), distill, maintain, redistill, rest_of_redistill(None, None, None)]
for flow in [*flows, deployments.capture, deployments.redistill, deployments.maintain]:
    assert tell_end in flow.on_completion_hooks and tell_end in flow.on_failure_hooks, flow.name
"""
    subprocess.run([sys.executable, "-c", program], check=True)
