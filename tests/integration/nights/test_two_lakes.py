"""Two lakes on one Prefect server: the second `serve` is refused, and takes nothing over from the first."""

from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from logitlake.flows.serve.deployments import deployments, refuse_another_lake
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import SettingsError

pytestmark = pytest.mark.slow


def test_a_second_lake_is_refused_until_the_first_is_paused(server: Any, config: Config, tmp_path: Path) -> None:
    lake = config.lake.model_copy(update={"path": tmp_path / "other"})
    other = config.model_copy(update={"lake": lake})
    with temporary_settings({PREFECT_API_URL: server.api}):
        own, others = (deployments(found, None, []) for found in (config, other))
        refuse_another_lake(own, location_of(config))
        ids = [deployment.apply() for deployment in own]
        refuse_another_lake(own, location_of(config))
        with pytest.raises(SettingsError, match="scheduled-capture/capture for another lake"):
            refuse_another_lake(others, location_of(other))
        with get_client(sync_client=True) as client:
            for deployment_id in ids:
                client.pause_deployment(deployment_id)
        refuse_another_lake(others, location_of(other))
