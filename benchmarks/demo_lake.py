"""A copy of the demo's lake, for commands that change it."""

import argparse
import shutil
from pathlib import Path

from logitlake.flows.cli.commands.demo import demo
from logitlake.flows.demo.settings import DemoPaths
from logitlake.flows.terminal.output import say
from logitlake.storage.connection.location import LakeLocation


def demo_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the option that names the demo's directory."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--demo", type=Path, default=Path(), help="directory that holds demo-lake and demo-out")
    return parser


def demo_paths(directory: Path) -> DemoPaths:
    """The paths of the demo in `directory`; runs the demo if its lake is missing."""
    paths = DemoPaths.under(directory)
    if not paths.lake.exists():
        say("The demo's lake is missing: running the demo first.")
        demo(directory)
    return paths


def copy_demo_lake(paths: DemoPaths, home: Path) -> LakeLocation:
    """Copy the demo's lake to `home`/lake, without Prefect's state and locks."""
    shutil.copytree(paths.lake, home / "lake", ignore=shutil.ignore_patterns("prefect", "*.lock"))
    return LakeLocation.resolve(home / "lake")
