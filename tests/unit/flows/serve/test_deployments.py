"""What runs by the clock says so to Prefect: schedules with their time zone, limits, the trigger, validated forms."""

import asyncio
import re
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.server.schemas.schedules import CronSchedule

from logitlake.flows.runtime import environment as orchestration
from logitlake.flows.runtime.environment import TAG
from logitlake.flows.runtime.events import CAPTURED, resource_of
from logitlake.flows.serve import deployments as entries
from logitlake.flows.serve.automations import crash_zombies
from logitlake.flows.serve.deployments import deployments
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.loading import load_config
from logitlake.pipeline.settings.models import Config, ScheduleSettings
from logitlake.storage.errors import SettingsError

ROOT = Path(__file__).resolve().parents[4]
NAMES = ("capture", "redistill", "maintain")
PROMPTS = {"name": "questions", "kind": "text", "path": "questions"}


def made(config: Config) -> dict[str, Any]:
    found = deployments(config, Path("logitlake.yaml"), ["capture.max_hours=1"])
    return {str(deployment.name).partition("-")[0]: deployment for deployment in found}


@pytest.fixture
def with_prompts(raw_config: dict[str, Any]) -> Config:
    return Config.model_validate(raw_config | {"generate": {"prompts": PROMPTS}, "schedule": {"generate": "7 3 * * *"}})


def test_each_flow_has_its_cron_schedule_in_the_time_zone_of_the_settings(config: Config) -> None:
    schedule = ScheduleSettings(timezone="Europe/Berlin", capture="*/5 * * * *", maintain=None)
    found = made(config.model_copy(update={"schedule": schedule}))
    assert set(found) == set(NAMES)
    clock = found["capture"].schedules[0].schedule
    assert (clock.cron, clock.timezone) == ("*/5 * * * *", "Europe/Berlin")
    assert found["maintain"].schedules == []


def test_a_schedule_keeps_its_hour_when_the_clocks_change(config: Config) -> None:
    """In Berlin two in the morning does not exist on one day of the year and exists twice on another."""
    schedule = ScheduleSettings(timezone="Europe/Berlin", redistill="30 4 * * *")
    served = made(config.model_copy(update={"schedule": schedule}))["redistill"].schedules[0].schedule
    clock = CronSchedule(cron=served.cron, timezone=served.timezone)
    for day in (datetime(2026, 3, 27, tzinfo=ZoneInfo("UTC")), datetime(2026, 10, 23, tzinfo=ZoneInfo("UTC"))):
        dates = asyncio.run(clock.get_dates(n=5, start=day))
        local = [date.astimezone(ZoneInfo("Europe/Berlin")) for date in dates]
        assert [(date.hour, date.minute) for date in local] == [(4, 30)] * 5
        assert len({date.date() for date in local}) == 5, "once a day, every day"


def test_one_run_of_each_at_a_time_and_no_night_is_lost(config: Config) -> None:
    found = made(config)
    assert all(deployment.concurrency_limit == 1 for deployment in found.values())
    strategies = {name: found[name].concurrency_options.collision_strategy for name in NAMES}
    assert strategies["redistill"] == ConcurrencyLimitStrategy.ENQUEUE
    assert strategies["capture"] == strategies["maintain"] == ConcurrencyLimitStrategy.CANCEL_NEW


def test_traces_are_written_by_the_clock_where_there_are_prompts(config: Config, with_prompts: Config) -> None:
    found = made(with_prompts)
    assert set(found) == {*NAMES, "generate"}
    assert found["generate"].schedules[0].schedule.cron == "7 3 * * *"
    assert found["generate"].concurrency_limit == 1
    unscheduled = with_prompts.model_copy(update={"schedule": ScheduleSettings()})
    assert made(unscheduled)["generate"].schedules == [], "only by hand"
    assert "generate" not in made(config)


def test_a_schedule_of_traces_without_prompts_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"schedule\.generate: nothing to write without prompts"):
        load_config(None, ('schedule.generate="0 1 * * *"',))


def test_a_capture_of_this_lake_that_committed_starts_the_student(config: Config) -> None:
    (trigger,) = made(config)["redistill"].triggers
    assert trigger.expect == {CAPTURED}
    assert trigger.match.root == {"prefect.resource.id": resource_of(location_of(config))}
    quiet = config.model_copy(update={"schedule": ScheduleSettings(on_capture=False)})
    assert made(quiet)["redistill"].triggers == []


def test_the_names_of_deployments_name_the_lake(config: Config, tmp_path: Path) -> None:
    """One Prefect server can serve several lakes."""
    other = config.model_copy(update={"lake": config.lake.model_copy(update={"path": tmp_path / "Ein anderer: See"})})
    names = [deployment.name for found in (config, other) for deployment in made(found).values()]
    assert len(set(names)) == 6
    assert [re.sub(r"-[0-9a-f]{12}$", "", name) for name in names[3:]] == [f"{step}-Ein-anderer-See" for step in NAMES]
    assert all(re.fullmatch("[A-Za-z0-9-]+", name) for name in names)


def test_events_name_the_lake_without_its_path(config: Config) -> None:
    assert str(config.lake.path) not in resource_of(location_of(config))


@pytest.mark.parametrize("name", [*NAMES, "generate"])
def test_parameters_are_forms_that_prefect_validates(with_prompts: Config, name: str) -> None:
    entry = getattr(entries, name)
    with pytest.raises(Exception, match="max_hours"):
        wrong = {"maintain": "maintenance"}.get(name, name)
        entry.validate_parameters({"config_file": None, "overrides": [], wrong: {"max_hours": -1}})
    properties = made(with_prompts)[name]._parameter_openapi_schema.properties
    assert {"config_file", "overrides"} < set(properties)


def test_a_form_replaces_a_section_of_the_file_and_nothing_else(config_file: Path) -> None:
    from logitlake.pipeline.settings.models import CaptureSettings

    file = load_config(config_file)
    config = entries._settings(config_file, None, capture=CaptureSettings(max_tokens=5), redistill=None)
    assert config.capture == CaptureSettings(max_tokens=5)
    assert config.model_copy(update={"capture": file.capture}) == file


def test_prefect_yaml_deploys_the_same_flows_with_the_same_limits_and_clock(with_prompts: Config) -> None:
    """That of `generate` has no clock: not all lakes have prompts."""
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    served = made(with_prompts.model_copy(update={"schedule": ScheduleSettings()}))
    assert {entry["name"] for entry in content["deployments"]} == set(served)
    for entry in content["deployments"]:
        assert entry["entrypoint"] == f"logitlake.flows.serve.deployments.{entry['name']}"
        options = served[entry["name"]].concurrency_options
        assert entry["concurrency_limit"]["collision_strategy"] == options.collision_strategy.value
        clocks = [found.schedule for found in served[entry["name"]].schedules]
        assert entry["schedules"] == [{"cron": clock.cron, "timezone": clock.timezone} for clock in clocks]
    (trigger,) = next(e for e in content["deployments"] if e["name"] == "redistill")["triggers"]
    assert trigger["expect"] == [CAPTURED]


def test_a_run_of_ours_without_a_sign_of_life_is_marked_as_crashed_and_nobody_elses() -> None:
    automation = crash_zombies(120)
    assert automation.trigger.within.total_seconds() == 120
    assert automation.trigger.posture.value == "Proactive"
    assert automation.trigger.match_related.root == {
        "prefect.resource.id": f"prefect.tag.{TAG}",
        "prefect.resource.role": "tag",
    }
    assert automation.actions[0].state.value == "CRASHED"


def test_runs_give_signs_of_life_more_often_than_they_are_waited_for(config: Config) -> None:
    shortest = next(rule.ge for rule in ScheduleSettings.model_fields["zombie_seconds"].metadata if hasattr(rule, "ge"))
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    shipped = [entry["work_pool"]["job_variables"]["env"] for entry in content["deployments"]]
    for environment in (orchestration._DEFAULTS, *shipped):
        assert 2 * int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) <= shortest
    assert all(entry["tags"] == [TAG] for entry in content["deployments"])
    assert all(deployment.tags == [TAG, resource_of(location_of(config))] for deployment in made(config).values())


@pytest.mark.parametrize(
    "wrong",
    [
        "schedule.timezone=Mars/Olympus",
        'schedule.capture="every day"',
        'schedule.generate="every day"',
        "schedule.teachers=0",
        "schedule.notify=slack",
        "schedule.zombie_seconds=5",
        "schedule.port=70000",
        "redistill.min_new_documents=0",
        "redistill.min_new_tokens=0",
        "redistill.replay_share=1",
        "redistill.learning_rate=0",
        "redistill.tolerance=-0.1",
        "redistill.measure=luck",
        "redistill.alias=a b",
        "redistill.checkpoint_steps=0",
        "maintenance.target_bytes=0",
        "maintenance.grace_hours=-1",
        "maintenance.verify_sample=1.5",
    ],
)
def test_a_setting_out_of_bounds_is_refused_by_name(wrong: str) -> None:
    with pytest.raises(SettingsError, match=wrong.partition("=")[0].replace(".", r"\.")):
        load_config(None, (wrong,))
