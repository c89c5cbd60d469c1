"""The deployment that writes traces: killed whole in the middle, it goes on, and what it wrote is captured."""

import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.nights import computed_twice
from logitlake.flows.runtime.limits import TEACHERS
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.lake.lake import Lake
from tests.integration.nights.service import Service
from tests.tiny_lake import append_documents, tiny_settings

pytestmark = pytest.mark.slow

PROMPTS = 6


@pytest.fixture
def config(tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Prompts in three units, one completion for each; nothing but traces is captured."""
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    prompts = tmp_path / "prompts.jsonl"
    append_documents(prompts, 0, PROMPTS)
    raw = tiny_settings(tmp_path, tiny_teacher, prompts)
    raw["generate"] = {
        "prompts": {"name": "prompts", "kind": "jsonl", "path": str(prompts)},
        "max_new_tokens": 6,
        "unit_prompts": 2,
    }
    raw["corpora"] = [{"name": "traces", "kind": "traces"}]
    return Config.model_validate(raw)


def facts(config: Config) -> dict[str, Any]:
    with Lake.open(location_of(config)) as lake:
        return lake.row(
            """
            SELECT (SELECT count(*) FROM store.traces) AS samples, (SELECT count(*) FROM traces) AS traces,
                (SELECT count(*) FROM documents) AS captured, (SELECT max(commit_number) FROM commits) AS last_commit
            """
        )


def test_a_killed_run_goes_on_is_captured_and_is_not_repeated(service: Service) -> None:
    def completed(run: str) -> bool:
        return bool(service.run(run)["state_type"] == "COMPLETED")

    service.start(stop_at="unit-computed:3")
    run = service.create_run("generate")
    service.wait(lambda: run in service.held(), "the third unit to be computed")
    assert service.slots()[TEACHERS] == 1, "writing takes the slot of a teacher"
    assert facts(service.config)["samples"] == 4
    service.kill(signal.SIGKILL)

    service.start()
    assert service.run(run)["state_type"] == "CRASHED"
    again = service.create_run("generate")
    service.wait(lambda: completed(again), "the rest to be written and captured")
    first = facts(service.config)
    assert first["samples"] == PROMPTS
    assert first["captured"] == first["traces"] > 0
    assert computed_twice(service.config) == 0
    assert not any(service.slots().values())

    nothing_new = service.create_run("generate")
    service.wait(lambda: completed(nothing_new), "a run with nothing new")
    assert facts(service.config) == first
