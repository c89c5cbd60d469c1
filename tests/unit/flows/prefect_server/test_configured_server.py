"""A Prefect server that is configured and does not answer is named before the teacher is loaded."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_KEY, PREFECT_API_URL, temporary_settings

from logitlake.flows.prefect_server.configured import require_server
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.sql.session import query

PROFILE = """
active = "night"
[profiles.night]
PREFECT_API_URL = "http://user:secret@127.0.0.1:9/api"
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", ["PREFECT_API_URL", "the Prefect profile"])
def test_a_configured_server_that_is_dead_is_one_sentence(
    source: str, config: Config, config_file: Path, tmp_path: Path
) -> None:
    environment: dict[str, Any] = {n: v for n, v in os.environ.items() if not n.startswith("PREFECT")}
    environment["HOME"] = str(tmp_path)
    if source == "PREFECT_API_URL":
        environment["PREFECT_API_URL"] = "http://user:secret@127.0.0.1:9/api"
    else:
        (tmp_path / ".prefect").mkdir()
        (tmp_path / ".prefect" / "profiles.toml").write_text(PROFILE)
    call = [sys.executable, "-m", "logitlake", "capture", "--config", str(config_file)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1, done.stderr
    assert f"{source} http://127.0.0.1:9/api: expected a Prefect server, found none" in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert query(location_of(config), "SELECT status FROM runs").to_pylist() == [{"status": "failed"}]


def test_prefect_cloud_is_not_asked_for_a_page_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    workspace = "https://api.prefect.cloud/api/accounts/1/workspaces/2"
    with temporary_settings({PREFECT_API_URL: workspace, PREFECT_API_KEY: "key"}):
        require_server()
