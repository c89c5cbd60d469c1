"""The scheduled flows as Prefect deployments, for `serve` and for work pools.

Each run reads the settings file again, so a change takes effect at the next run. A run that is started by hand can
replace whole sections of it, by a validated form.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from prefect import flow, get_run_logger, tags
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.flows import Flow
from prefect.runtime import flow_run
from prefect.types.entrypoint import EntrypointType

from logitlake.flows.capture.flow import capture as capture_flow
from logitlake.flows.generate.flow import generate as generate_flow
from logitlake.flows.maintain.flow import maintain as maintain_flow
from logitlake.flows.maintain.run import has_no_lake_yet
from logitlake.flows.redistill.flow import redistill as redistill_flow
from logitlake.flows.reports import CaptureReport
from logitlake.flows.runtime.environment import TAG
from logitlake.flows.runtime.events import CAPTURED, TELLS_ITS_END, resource_of, tell
from logitlake.flows.runtime.log_secrets import hide_secrets_in_logs
from logitlake.flows.runtime.run_names import last_commit, teacher_label
from logitlake.flows.settings import location_of, settings
from logitlake.pipeline.settings.models import (
    CaptureSettings,
    Config,
    EvaluationSettings,
    GenerateSettings,
    MaintenanceSettings,
    RedistillSettings,
    Settings,
    TrainingSettings,
)
from logitlake.storage.connection.location import LakeLocation

# Prefect sends our log lines to its server (PREFECT_LOGGING_EXTRA_LOGGERS), but leaves the level at WARNING.
logging.getLogger("logitlake").setLevel(logging.INFO)
hide_secrets_in_logs()

# Tag of what the server in a lake's own folder serves: it identifies old deployments after the lake was moved.
_OWN_SERVER = "logitlake.own-server"
# Names of an older logitlake.
_OLD_NAMES = {"capture", "redistill", "maintain"}
# How long a scheduled run waits for another one of its kind.
_PATIENCE = 24 * 3600.0


def _run_name() -> str:
    """The teacher, and the lake's commit number at the start."""
    given = flow_run.parameters
    config = _settings(given["config_file"] and Path(given["config_file"]), given["overrides"], given.get("lake"))
    return f"{teacher_label(config)} after commit {last_commit(config)}"


@flow(
    name="scheduled-capture",
    flow_run_name=_run_name,
    description="Run the teacher over the documents that the lake does not hold yet.",
    **TELLS_ITS_END,
)
def capture(
    config_file: Path | None = None,
    overrides: list[str] | None = None,
    lake: Path | None = None,
    capture: CaptureSettings | None = None,
) -> dict[str, Any]:
    """Capture new documents; emits an event if any were committed."""
    return _captured(_settings(config_file, overrides, lake, capture=capture)).as_record()


def _captured(config: Config) -> CaptureReport:
    with tags(TAG):
        report = capture_flow(config, _PATIENCE)
    if report.n_documents:
        tell(CAPTURED, location_of(config), documents=report.n_documents, commit=report.commit_number)
    return report


@flow(
    name="scheduled-generate",
    flow_run_name=_run_name,
    description="Write and verify the traces that the lake does not hold yet, then capture.",
    **TELLS_ITS_END,
)
def generate(
    config_file: Path | None = None,
    overrides: list[str] | None = None,
    lake: Path | None = None,
    generate: GenerateSettings | None = None,
    capture: CaptureSettings | None = None,
) -> dict[str, Any]:
    """Write what is missing, and capture it: traces that an earlier run wrote and did not capture, too."""
    config = _settings(config_file, overrides, lake, generate=generate, capture=capture)
    with tags(TAG):
        report = generate_flow(config, _PATIENCE)
    return {"generate": report.as_record(), "capture": _captured(config).as_record()}


@flow(
    name="scheduled-redistill",
    flow_run_name=_run_name,
    description="Capture what is missing, train on it, promote what is no worse.",
    **TELLS_ITS_END,
)
def redistill(
    config_file: Path | None = None,
    overrides: list[str] | None = None,
    lake: Path | None = None,
    capture: CaptureSettings | None = None,
    training: TrainingSettings | None = None,
    evaluation: EvaluationSettings | None = None,
    redistill: RedistillSettings | None = None,
) -> dict[str, Any]:
    """One night of new data."""
    sections = {"capture": capture, "training": training, "evaluation": evaluation, "redistill": redistill}
    with tags(TAG):
        return redistill_flow(_settings(config_file, overrides, lake, **sections), _PATIENCE).as_record()


@flow(
    name="scheduled-maintain",
    flow_run_name=_run_name,
    description="Verify, merge, expire and sweep.",
    **TELLS_ITS_END,
)
def maintain(
    config_file: Path | None = None,
    overrides: list[str] | None = None,
    lake: Path | None = None,
    maintenance: MaintenanceSettings | None = None,
    dry_run: bool = False,
    verify_all: bool = False,
) -> dict[str, Any]:
    """Upkeep. Before the first capture there is nothing to do."""
    config = _settings(config_file, overrides, lake, maintenance=maintenance)
    if has_no_lake_yet(location_of(config)):
        get_run_logger().warning("there is no lake at %s yet: nothing to do", location_of(config).data)
        return {}
    with tags(TAG):
        return maintain_flow(config, dry_run=dry_run, verify_all=verify_all).as_record()


def deployments(
    config: Config,
    config_file: Path | None,
    overrides: Sequence[str] = (),
    lake: Path | None = None,
    *,
    own_server: bool = False,
) -> list[RunnerDeployment]:
    """The deployments with the schedules of the settings, for one machine (`prefect.yaml` is for many).

    That of `generate` is there if the settings name prompts.
    Each run reads the settings anew from `config_file`, `overrides` and `lake` (lake.path). `own_server`: the server's
    state is in the lake's folder.
    """
    parameters = {
        "config_file": str(config_file.absolute()) if config_file else None,
        "overrides": [*overrides],
        "lake": str(lake.absolute()) if lake else None,
    }
    schedule = config.schedule
    server_tags = [_OWN_SERVER] if own_server else []
    captured = DeploymentEventTrigger(
        name=f"student after capture, {resource_of(location_of(config))}",
        expect={CAPTURED},
        match={"prefect.resource.id": resource_of(location_of(config))},
        parameters=parameters,
    )
    has_prompts = config.generate.prompts is not None
    return [
        _deployment(capture, schedule.capture, config, parameters, server_tags),
        *([_deployment(generate, schedule.generate, config, parameters, server_tags)] if has_prompts else []),
        # A night that is triggered while another one runs waits for it; it then ends within seconds.
        _deployment(
            redistill,
            schedule.redistill,
            config,
            parameters,
            server_tags,
            triggers=[captured] if schedule.on_capture else [],
            collision=ConcurrencyLimitStrategy.ENQUEUE,
        ),
        _deployment(maintain, schedule.maintain, config, parameters, server_tags),
    ]


def deployment_name(step: str, location: LakeLocation) -> str:
    """The name of a step's deployment for this lake: lakes that share a Prefect server have different names."""
    folder = re.sub(r"[^A-Za-z0-9]+", "-", Path(location.data.rstrip("/")).parent.name).strip("-") or "lake"
    return f"{step}-{folder}-{resource_of(location).rpartition('.')[2]}"


def _deployment(
    entry: Flow[..., Any],
    cron: str | None,
    config: Config,
    parameters: dict[str, Any],
    server_tags: list[str],
    *,
    triggers: list[DeploymentEventTrigger] | None = None,
    collision: ConcurrencyLimitStrategy = ConcurrencyLimitStrategy.CANCEL_NEW,
) -> RunnerDeployment:
    # Outside of a coroutine Prefect answers at once; its signature allows both.
    deployment = entry.to_deployment(
        deployment_name(entry.fn.__name__, location_of(config)),
        schedules=[CronSchedule(cron=cron, timezone=config.schedule.timezone)] if cron else [],
        parameters=parameters,
        triggers=[*(triggers or [])],
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=collision),
        tags=[TAG, resource_of(location_of(config)), *server_tags],
        description=entry.description,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return cast(RunnerDeployment, deployment)


def _settings(
    config_file: Path | None, overrides: list[str] | None, lake: Path | None = None, **sections: Settings | None
) -> Config:
    """The settings of the file, with the sections of the run's form in place of the file's sections."""
    config = settings(config_file, overrides, {"lake.path": lake})
    return config.model_copy(update={name: section for name, section in sections.items() if section is not None})


def own_deployments(client: SyncPrefectClient, location: LakeLocation) -> list[DeploymentResponse]:
    """Deployments of `serve` for this lake on its own server: also of its former place, and of an older logitlake.

    Without those of work pools and of other lakes: their runs may be on other machines.
    """
    own_tags = {resource_of(location), _OWN_SERVER}
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    return [
        deployment
        for deployment in client.read_deployments(deployment_filter=ours)
        if deployment.work_pool_name is None
        and (own_tags.intersection(deployment.tags) or deployment.name in _OLD_NAMES)
    ]


def remove_other_deployments(served: Sequence[RunnerDeployment], location: LakeLocation) -> None:
    """Remove this lake's deployments that are not in `served`, from its own server.

    They remain from the former place of a lake that was moved, and from an older logitlake.
    """
    names = {deployment.name for deployment in served}
    with get_client(sync_client=True) as client:
        for deployment in own_deployments(client, location):
            if deployment.name not in names:
                client.delete_deployment(deployment.id)
