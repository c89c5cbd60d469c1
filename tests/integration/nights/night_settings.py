"""Settings for nights that take seconds."""

from pathlib import Path

from logitlake.pipeline.settings.models import Config
from tests.tiny_lake import tiny_settings


def night_settings(directory: Path, teacher: Path) -> Config:
    """The corpus is `documents.jsonl` in the directory, the lake is beside it."""
    settings = tiny_settings(
        directory,
        teacher,
        directory / "documents.jsonl",
        batch_sequences=1,  # steps enough for the trainer to report its progress
        learning_rate=0.03,
        schedule="constant",
        warmup_share=0.0,
    )
    # A bad learning rate that still gives finite figures at 100 times its value.
    settings["redistill"] = {"checkpoint_steps": 1, "learning_rate": 0.003}
    # A killed run keeps its teacher slot for a minute: slots for all runs, so that no test waits.
    settings["schedule"] = {"teachers": 100}
    return Config.model_validate(settings)
