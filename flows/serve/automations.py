"""Automations of the Prefect server: mark runs whose process died as crashed, and send notifications."""

from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from logitlake.flows.runtime.environment import TAG
from logitlake.flows.runtime.events import ENDED, ENDS, PROMOTED, REJECTED
from logitlake.pipeline.settings.models import ScheduleSettings
from logitlake.storage.errors import SettingsError

ZOMBIES = "logitlake: runs whose process died"
NOTIFY_FAILED = "logitlake: notify of failed runs"
NOTIFY_DECIDED = "logitlake: notify of decisions"
_HEARTBEAT = "prefect.flow-run.heartbeat"
_SERVER_ENDS = [f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")]
_RUNS = {"prefect.resource.id": "prefect.flow-run.*"}
_OURS = {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}

_TEXT = "{{ flow.name }}, run {{ flow_run.name }}: {{ flow_run.state.name }}. {{ flow_run.state.message }}"


def arrange_automations(settings: ScheduleSettings) -> None:
    """Create the automations, or update those that differ. Raises SettingsError for an unknown notification block."""
    automations = [crash_zombies(settings.zombie_seconds)]
    if settings.notify is not None:
        automations += notifications(settings.notify)
    for automation in automations:
        _put(automation)


def crash_zombies(seconds: int) -> Automation:
    """Mark a run of ours as crashed if it sent a heartbeat and then neither a heartbeat nor an end for `seconds`.

    ENDS starts the watch anew, so that heartbeats from before it do not count (see `tell_end`).
    """
    return Automation(
        name=ZOMBIES,
        description="Its process was killed, or its machine is gone. The next run continues its work.",
        trigger=EventTrigger(
            after={_HEARTBEAT, ENDS},
            expect={_HEARTBEAT, *_SERVER_ENDS, ENDED},
            match=_RUNS,
            match_related=_OURS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, message=f"no heartbeat for {seconds} s: its process was killed")
        ],
    )


def notifications(block: str) -> list[Automation]:
    """Notifications of runs that did not complete, and of decisions, through a Prefect block named type/name.

    A cancelled run is one of them, whoever cancelled it: Prefect cancels a run that finds another one of its deployment
    under way, and if that one is stuck, every further run.
    """
    block_id = _block_id(block)
    failed = EventTrigger(
        expect={f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "Cancelled")},
        match=_RUNS,
        match_related=_OURS,
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )
    decided = EventTrigger(
        expect={PROMOTED, REJECTED}, match={"prefect.resource.id": "logitlake.lake.*"}, posture=Posture.Reactive
    )
    return [
        Automation(
            name=NOTIFY_FAILED,
            trigger=failed,
            actions=[
                SendNotification(block_document_id=block_id, subject="logitlake: a run did not complete", body=_TEXT)
            ],
        ),
        Automation(
            name=NOTIFY_DECIDED,
            trigger=decided,
            actions=[
                SendNotification(
                    block_document_id=block_id,
                    subject="{{ event.event }}",
                    body="student {{ event.payload.student }} ({{ event.payload.alias }}): {{ event.payload.reason }}",
                )
            ],
        ),
    ]


def _block_id(block: str) -> UUID:
    kind, _, name = block.partition("/")
    with get_client(sync_client=True) as client:
        try:
            return client.read_block_document_by_name(name, kind).id
        except ObjectNotFound:
            raise SettingsError(
                f"schedule.notify {block}: this Prefect server has no such block; create it on the page Blocks of its "
                "web interface, or by `prefect block create`, and give its name as type/name"
            ) from None


def _put(automation: Automation) -> None:
    try:
        # Outside of a coroutine Prefect answers at once; its signature allows both.
        existing = cast(Automation, Automation.read(name=automation.name))
    except ValueError:
        automation.create()
        return
    # Prefect forgets what it waits for when an automation is updated: an unchanged one is left alone.
    if _content(existing) != _content(automation):
        automation.id = existing.id
        automation.update()


def _content(automation: Automation) -> dict[str, Any]:
    """What an automation does, without the ids that the server gives to it and to its trigger."""
    content = automation.model_dump(mode="json", exclude={"id": True, "trigger": {"id"}})
    for name in ("after", "expect"):
        content["trigger"][name] = sorted(content["trigger"][name])
    return content
