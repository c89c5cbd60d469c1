"""Two lakes on one Prefect server, and a second start of the same one: nothing is taken over, nothing is forgotten."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from logitlake.flows.serve.automations import ZOMBIES, arrange_automations
from logitlake.flows.serve.deployments import deployments, remove_other_deployments
from logitlake.pipeline.settings.models import Config, ScheduleSettings

pytestmark = pytest.mark.slow


def test_two_lakes_have_deployments_of_their_own_on_one_server(server: Any, config: Config, tmp_path: Path) -> None:
    lake = config.lake.model_copy(update={"path": tmp_path / "other"})
    other = config.model_copy(update={"lake": lake})
    with temporary_settings({PREFECT_API_URL: server.api}), get_client(sync_client=True) as client:
        own, others = (deployments(found, None, []) for found in (config, other))
        ids = {deployment.apply() for deployment in [*own, *others]}
        assert len(ids) == 6
        assert {deployment.apply() for deployment in own} < ids
        remove_other_deployments(own)
        assert {deployment.name for deployment in client.read_deployments()} == {found.name for found in own}


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
