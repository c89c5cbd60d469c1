"""The Prefect server that the environment or a profile names: it must answer before a run begins."""

import os
import time
import urllib.parse

import httpx
from prefect.client.base import ServerType, determine_server_type
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from logitlake.storage.errors import ServerLostError, ServerStartError

# A server that is being restarted is waited for this long.
_SECONDS = 10.0


def require_server() -> None:
    """Raise ServerStartError if a server is configured and does not answer. Without one there is nothing to check."""
    url = get_current_settings().api.url
    # Prefect Cloud has no such page for a workspace.
    if not url or determine_server_type() is ServerType.CLOUD:
        return
    deadline = time.monotonic() + _SECONDS
    while (problem := _problem()) is not None:
        if time.monotonic() >= deadline:
            source = "PREFECT_API_URL" if os.environ.get("PREFECT_API_URL") else "the Prefect profile"
            raise ServerStartError(
                f"{source} {_without_password(url)}: expected a Prefect server, found none ({problem}); start it, or "
                "remove the setting to use a temporary server"
            )
        time.sleep(0.5)


def lost_server() -> ServerLostError | None:
    """The error of a run that ended because its server went away; None if the server answers."""
    url = get_current_settings().api.url
    problem = _problem()
    if not url or problem is None:
        return None
    return ServerLostError(
        f"Prefect's server {_without_password(url)} went away during the run ({problem}): start it and run the same "
        "command again to continue; committed work is kept"
    )


def _problem() -> str | None:
    """Why the server did not answer; None if it did."""
    try:
        with get_client(sync_client=True, httpx_settings={"timeout": 5.0}) as client:
            error = client.api_healthcheck()
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as raised:
        error = raised
    if error is None:
        return None
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _without_password(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
