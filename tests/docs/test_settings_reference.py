"""docs/configuration.md says what the settings are now."""

import re
from pathlib import Path

import yaml

from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.reference import with_tables
from logitlake.pipeline.settings.yaml_file import documented_yaml

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_models() -> None:
    assert with_tables(PAGE) == PAGE, (
        "out of date: python -m logitlake.pipeline.settings.reference docs/configuration.md"
    )


def test_the_example_is_valid() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(Config.model_validate(yaml.safe_load(example)).corpora) == 3


def test_what_show_config_prints_is_the_configuration_again() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    for config in (Config(), Config.model_validate(yaml.safe_load(example))):
        assert Config.model_validate(yaml.safe_load(documented_yaml(config))) == config
