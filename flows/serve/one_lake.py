"""One lake per Prefect server: the deployments of `serve` have fixed names, and a second lake would take them over."""

from collections.abc import Iterable

from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound

from logitlake.flows.runtime.events import resource_of
from logitlake.storage.errors import SettingsError
from logitlake.storage.lake.location import LakeLocation

_PREFIX = "logitlake.lake."


def refuse_another_lake(wanted: Iterable[RunnerDeployment], location: LakeLocation) -> None:
    """Raises SettingsError if the server runs one of these deployments for another lake; one that is paused is free.

    Whose a deployment is, its tag tells (`resource_of`).
    """
    own = resource_of(location)
    with get_client(sync_client=True) as client:
        for deployment in wanted:
            name = f"{deployment.flow_name}/{deployment.name}"
            try:
                there = client.read_deployment_by_name(name)
            except ObjectNotFound:
                continue
            others = [tag for tag in there.tags if tag.startswith(_PREFIX) and tag != own]
            if others and not there.paused:
                raise SettingsError(
                    f"the Prefect server at {client.api_url} runs {name} for another lake ({others[0]}, not {own}): "
                    "give this one a server of its own, or stop the other; if its `serve` is dead, say "
                    f"`prefect deployment delete {name}`"
                )
