"""What a shell offers at Tab."""

import os
import subprocess
import sys
from typing import Any

import pytest

from logitlake.flows.cli.command_table import entries
from logitlake.flows.cli.completion import known_names, offer_setting
from logitlake.pipeline.settings.loading import load_config
from logitlake.pipeline.settings.names import setting_names
from logitlake.storage.errors import SettingsError

HEAVY = ("torch", "transformers", "prefect", "datasets", "pyarrow", "duckdb")


def completed(words: str, **more: str) -> tuple[list[str], list[str]]:
    """What bash is offered for the last of these words, and what heavy thing was imported for it."""
    script = f"""
import sys
from logitlake.flows.cli.app import main
try:
    main()
finally:
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    wanted = {"_LOGITLAKE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **wanted, **more},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), eval(done.stderr.splitlines()[-1])


def test_commands_are_offered_and_nothing_heavy_is_imported_for_it() -> None:
    offered, heavy = completed("logitlake re")
    assert offered == [entry.name for entry in entries() if entry.name.startswith("re")]
    assert len(offered) > 2
    assert heavy == []


def test_what_can_be_shown_and_its_ids_are_offered(filled: Any) -> None:
    environment = {"LOGITLAKE_CONFIG": str(filled.config_file)}
    assert completed("logitlake show reci", **environment)[0] == ["recipes", "recipe"]
    offered, heavy = completed(f"logitlake show recipe {filled.report.recipe_id[:3]}", **environment)
    assert offered == [filled.report.recipe_id]
    assert not {"torch", "transformers", "prefect", "datasets"} & set(heavy)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("training.ep", ["training.epochs="]),
        ("target.thr", ["target.threshold="]),
        ("training.schedule=", [f"training.schedule={word}" for word in ("constant", "cosine", "linear")]),
        ("lake.held_out.s", ["lake.held_out.share=", "lake.held_out.salt="]),
        ("generate.verifier.min", ["generate.verifier.min_score="]),
        ("training.epochs=", []),
        ("nothing", []),
    ],
)
def test_settings_are_offered_by_name_and_their_words(typed: str, offered: list[str]) -> None:
    assert [name for name, _ in offer_setting(None, typed)] == offered  # type: ignore[arg-type]


def test_the_shell_offers_settings_for_set() -> None:
    assert completed("logitlake train --set training.ep")[0] == ["training.epochs="]


def test_every_offered_name_is_a_setting() -> None:
    """Sections whose settings depend on a name in them are left out: another name has other settings."""
    by_name = ("target.", "generate.prompts.", "generate.verifier.")
    names = [name for name in setting_names() if "." in name and not name.startswith(by_name)]
    assert len(names) > 80
    for name in names:
        with pytest.raises(SettingsError) as refused:
            load_config(None, [f"{name}=[[]]"])
        assert "unknown setting" not in str(refused.value), name


def test_without_a_lake_or_with_a_wrong_setting_nothing_is_offered() -> None:
    assert known_names({"lake": "/no/such/lake"}, "student", "") == []
    assert known_names({"overrides": ["lake.pth=x"]}, "student", "") == []


@pytest.mark.parametrize("kind", ["student", "recipe", "run", "row-set", "document"])
def test_names_are_those_that_start_with_what_was_typed(filled: Any, kind: str) -> None:
    given = {"config_file": filled.config_file}
    every = known_names(given, kind, "")
    assert len(every) == {"recipe": 1, "run": 1, "document": 1}.get(kind, 0)
    for name, about in every:
        assert known_names(given, kind, name[:5])
        assert about
    assert known_names(given, kind, "no such beginning") == []
