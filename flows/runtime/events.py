"""Events for other flows and for notifications: a capture has committed, a candidate was promoted or rejected."""

from typing import Any

from prefect.events import emit_event

from logitlake.storage.identity import digest
from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.redaction import without_passwords

CAPTURED = "logitlake.captured"
PROMOTED = "logitlake.promoted"
REJECTED = "logitlake.rejected"


def tell(event: str, location: LakeLocation, **payload: Any) -> None:
    """Emit an event about a lake. The payload is JSON-able and holds text and numbers only."""
    resource = {"prefect.resource.id": resource_of(location), "prefect.resource.name": "logitlake lake"}
    emit_event(event, resource=resource, payload=payload)


def resource_of(location: LakeLocation) -> str:
    """The lake's name in events: the same on every machine and after a change of the password; holds no path."""
    catalog = without_passwords(location.catalog)
    return f"logitlake.lake.{digest(b'lake', catalog.encode(), location.data.encode())[:12]}"
