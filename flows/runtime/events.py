"""Events for other flows, for notifications, and for the automation that marks dead runs as crashed."""

from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.flows import Flow

from logitlake.flows.runtime.environment import TAG
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import digest
from logitlake.storage.redaction import without_passwords

CAPTURED = "logitlake.captured"
PROMOTED = "logitlake.promoted"
REJECTED = "logitlake.rejected"
ENDS, ENDED = "logitlake.run-ends", "logitlake.run-ended"


def tell(event: str, location: LakeLocation, **payload: Any) -> None:
    """Emit an event about a lake. The payload is JSON-able and holds text and numbers only."""
    resource = {"prefect.resource.id": resource_of(location), "prefect.resource.name": "logitlake lake"}
    emit_event(event, resource=resource, payload=payload)


def tell_end(flow: Flow[..., Any], run: FlowRun, state: State[Any]) -> None:
    """Emit two events at the end of a flow run, for the automation that marks dead runs as crashed.

    The server's own event of the end may arrive before the heartbeat of a short run, which then looks as if it had
    died. ENDS makes Prefect ignore every earlier heartbeat that arrives after it; ENDED, which Prefect handles after
    ENDS, ends the watch.
    """
    resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
    related = [{"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}]
    ends = emit_event(ENDS, resource=resource, related=related)
    emit_event(ENDED, resource=resource, related=related, follows=ends)


# For the decorator of a flow.
TELLS_ITS_END: dict[str, Any] = {"on_completion": [tell_end], "on_failure": [tell_end]}


def resource_of(location: LakeLocation) -> str:
    """The lake's name in events: the same on every machine and after a change of the password; holds no path."""
    catalog = without_passwords(location.catalog)
    return f"logitlake.lake.{digest(b'lake', catalog.encode(), location.data.encode())[:12]}"
