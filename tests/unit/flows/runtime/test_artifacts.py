"""What a run shows when Prefect's server is gone: nothing, and it goes on."""

import logging
from uuid import uuid4

import httpx
import pytest

from logitlake.flows.runtime import artifacts
from logitlake.flows.runtime.artifacts import ProgressArtifact, table_artifact


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In a run whose server does not answer; the list holds what was tried."""
    tried: list[str] = []

    def refuse(*given: object, **named: object) -> None:
        tried.append("refused")
        raise httpx.ConnectError("connection refused")

    monkeypatch.setattr(artifacts, "_in_a_run", lambda: True)
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda share, description: uuid4())
    monkeypatch.setattr(artifacts, "update_progress_artifact", refuse)
    monkeypatch.setattr(artifacts, "create_table_artifact", refuse)
    return tried


def test_a_server_that_dies_is_tried_once_by_a_bar_and_warned_of(
    unreachable: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    shown = ProgressArtifact("Capture")
    for share in (0.1, 0.2, 0.3):
        shown.update(share)
    assert len(unreachable) == 1
    assert caplog.text.count("the run continues") == 1


def test_a_table_that_can_not_be_shown_does_not_end_the_run(
    unreachable: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    table_artifact("capture", [{"name": "tokens", "value": 1}], "Capture")
    assert "connection refused" in caplog.text
