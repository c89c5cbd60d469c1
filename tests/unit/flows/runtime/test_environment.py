"""What is arranged before Prefect is imported."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from logitlake.flows.runtime.environment import prefect_home, run_flow, server_is_configured
from logitlake.flows.runtime.termination import TerminatedError
from logitlake.pipeline.settings.models import Config
from logitlake.storage.connection.location import LakeLocation

SCRIPT = """
import json, os, sys
from logitlake.flows.runtime.environment import arrange_prefect
from logitlake.storage.connection.location import LakeLocation
arrange_prefect(LakeLocation.resolve({lake!r}))
print(json.dumps({{name: value for name, value in os.environ.items() if name.startswith(("PREFECT", "DO_NOT"))}}))
"""


def arranged(lake: Path, **environment: str) -> dict[str, str]:
    """The variables after `arrange_prefect` in a process of its own, with a home that knows no Prefect."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "DO_NOT"))}
    environment = {**kept, "HOME": str(lake.parent), **environment}
    call = [sys.executable, "-c", SCRIPT.format(lake=str(lake))]
    done = subprocess.run(call, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_without_a_server_prefect_lives_beside_the_lake_and_reports_nothing_home(tmp_path: Path) -> None:
    found = arranged(tmp_path / "lake")
    assert found["PREFECT_HOME"] == str(tmp_path / "lake" / "prefect")
    assert (tmp_path / "lake" / "prefect").is_dir()
    assert found["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert found["DO_NOT_TRACK"] == "1"
    assert found["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] == "180"


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    found = arranged(
        tmp_path / "lake",
        PREFECT_API_URL="http://127.0.0.1:4200/api",
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="5",
    )
    assert "PREFECT_HOME" not in found
    assert found["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] == "5"


def test_a_profile_that_names_a_server_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not server_is_configured()
    (tmp_path / ".prefect").mkdir()
    profiles = tmp_path / ".prefect" / "profiles.toml"
    profiles.write_text('active = "here"\n[profiles.here]\n[profiles.there]\nPREFECT_API_URL = "http://there"\n')
    assert not server_is_configured()
    profiles.write_text(profiles.read_text().replace('"here"', '"there"'))
    assert server_is_configured()


def test_a_catalog_on_a_server_keeps_prefect_in_the_users_state(tmp_path: Path) -> None:
    location = LakeLocation.resolve(tmp_path, "postgres://host/lake", "s3://bucket/prefix")
    assert prefect_home(location).name == "prefect"
    assert tmp_path not in prefect_home(location).parents


def test_sigterm_unwinds_the_flow_and_the_handler_of_before_is_back() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def flow(config: Config) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TerminatedError):
        run_flow(flow, Config())
    assert signal.getsignal(signal.SIGTERM) is before
