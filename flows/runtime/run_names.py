"""Names of runs in Prefect, from the settings and the lake's commit number."""

from prefect.runtime import flow_run

from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LakeMissingError
from logitlake.storage.lake.lake import Lake


def settings_of_run() -> Config:
    """The configuration of the current flow run."""
    config = flow_run.parameters["config"]
    return config if isinstance(config, Config) else Config.model_validate(config)


def last_commit(config: Config) -> int:
    """The lake's commit number; 0 if there is no lake yet."""
    try:
        with Lake.open(location_of(config)) as lake:
            return lake.commit_number
    except LakeMissingError:
        return 0
