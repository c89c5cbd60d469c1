"""The paths and settings of the demo."""

import sysconfig
from dataclasses import dataclass
from pathlib import Path

from logitlake.pipeline.settings.models import Config
from logitlake.storage.connection.location import LakeLocation

# No document has more than 12,000 tokens, so a capture ends with 100,000 to 120,000 tokens.
MAX_TOKENS = 118_000
_MAX_CHARACTERS = 12_000
_EXCLUDED = ("test", "tests", "site-packages", "idlelib", "lib2to3", "encodings", "pydoc_data", "turtledemo")


@dataclass(frozen=True, slots=True)
class DemoPaths:
    """The demo's lake, and the directory of its settings file and student."""

    lake: Path
    output: Path

    @classmethod
    def under(cls, directory: Path) -> "DemoPaths":
        """`demo-lake` and `demo-out` in a directory."""
        return cls(directory / "demo-lake", directory / "demo-out")

    @property
    def location(self) -> LakeLocation:
        """The lake's location."""
        return LakeLocation.resolve(self.lake)


def demo_config(paths: DemoPaths, teacher: Path) -> Config:
    """The settings of the demo with this teacher (a GGUF file, or a directory)."""
    return Config.model_validate(
        {
            "lake": {"path": paths.lake, "held_out": {"share": 0.1}},
            "corpora": [
                {
                    "name": "python-stdlib",
                    "kind": "text",
                    "path": sysconfig.get_paths()["stdlib"],
                    "glob": ["**/*.py", *(f"!**/{folder}/**" for folder in _EXCLUDED)],
                    "max_characters": _MAX_CHARACTERS,
                    "max_reject_share": 1.0,
                }
            ],
            "teacher": {"model": str(teacher)},
            "tokenization": {"window": 512, "overlap": 64},
            "capture": {"unit_tokens": 32_000, "max_tokens": MAX_TOKENS},
            "student": {"source": "teacher", "layers": 10},
            "training": {
                "output": paths.output / "student",
                "batch_sequences": 4,
                "learning_rate": 5e-4,
                "epochs": 1,
            },
        }
    )
