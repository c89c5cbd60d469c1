"""Operations that make a lake beside the one of the site: a new one, an older one, a backup, a restored one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import recipe_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.export import NOTE, export_rows
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.upkeep.compaction import compact, plan_compaction
from logitlake.storage.upkeep.hashing import add_row_hashes
from tests.crash.contents import Contents, contents_of, differences, disorder, doubled, facts_of, without_events
from tests.crash.operation import Change, Operation, Order, StepwiseOperation, Tell
from tests.crash.rows import recipe_of
from tests.crash.site import Site

TESTS = Path(__file__).parents[1]
OPERATIONS = TESTS.parent / "docs" / "operations.md"


class Create(StepwiseOperation):
    """A new lake."""

    name = "create"
    share = 0.5
    may_lack_catalog = True

    def order(self, site: Site, chance: Random, label: str) -> Order:
        return {"directory": f"new {label}"}

    def location(self, site: Site, order: Order) -> LakeLocation:
        return LakeLocation.resolve(site.directory / order["directory"])

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        Lake.create(self.location(site, order), held_out_salt="s", held_out_share=0.0).close()

    def changes(self, before: Contents, order: Order) -> list[Change]:
        return []


class Migrate(Operation):
    """A lake of format 1 is brought up to the format of today."""

    name = "migrate"
    share = 0.5

    def order(self, site: Site, chance: Random, label: str) -> Order:
        shutil.copytree(TESTS / "golden" / "format-1" / "lake", site.directory / f"old {label}")
        return {"directory": f"old {label}"}

    def location(self, site: Site, order: Order) -> LakeLocation:
        return LakeLocation.resolve(site.directory / order["directory"])

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        with Lake.open(self.location(site, order), read_only=False) as lake:
            add_row_hashes(lake)
            for merge in plan_compaction(lake, target_bytes=1):
                assert compact(lake, merge) is not None


class Backup(Operation):
    """A backup by the lines of docs/operations.md. What it holds is read from a copy of it."""

    name = "backup"

    def order(self, site: Site, chance: Random, label: str) -> Order:
        return {"read_at": f"read {label}"}

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        run_lines(documented_lines()[0], site.directory)

    def problems_between(self, site: Site, before: Contents, now: Contents, order: Order, told: int) -> list[str]:
        """The backup before this one, if there was one, is whole."""
        backup = site.directory / "backup"
        backup = backup if backup.exists() else site.directory / "backup.old"
        held = self._held(backup, site.directory / order["read_at"]) if backup.exists() else None
        return [*differences(before, now), *(held[1] if held else [])]

    def problems_at_end(self, site: Site, before: Contents, now: Contents, order: Order) -> list[str]:
        held, problems = self._held(site.directory / "backup", site.directory / order["read_at"])
        return [*differences(before, now), *problems, *differences(without_events(now), held)]

    def _held(self, backup: Path, copy: Path) -> tuple[Contents, list[str]]:
        """What a backup holds, and what is wrong with it; read in a copy, because a reader leaves files beside it."""
        shutil.copytree(backup, copy)
        with Lake.open(LakeLocation.resolve(copy)) as lake:
            held = facts_of(lake)
            problems = [f"in the backup: {problem}" for problem in [*disorder(lake), *doubled(held)]]
        shutil.rmtree(copy)
        return held, problems


class Restore(Operation):
    """A lake restored from a backup by the lines of docs/operations.md, and maintained."""

    name = "restore"
    share = 0.5
    may_lack_catalog = True

    def order(self, site: Site, chance: Random, label: str) -> Order:
        run_lines(documented_lines()[0], site.directory)
        elsewhere = site.directory / f"restored {label}"
        elsewhere.mkdir()
        shutil.copytree(site.directory / "backup", elsewhere / "backup")
        return {"directory": elsewhere.name, "held": contents_of(site.location)}

    def location(self, site: Site, order: Order) -> LakeLocation:
        return LakeLocation.resolve(site.directory / order["directory"] / "lake")

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        directory = site.directory / order["directory"]
        shutil.rmtree(directory / "lake", ignore_errors=True)
        run_lines([line for line in documented_lines()[1] if not line.startswith("logitlake")], directory)

    def problems_between(self, site: Site, before: Contents, now: Contents, order: Order, told: int) -> list[str]:
        return []  # a restored lake that was not copied to its end is copied again

    def problems_at_end(self, site: Site, before: Contents, now: Contents, order: Order) -> list[str]:
        return differences(order["held"], now)


class Export(Operation):
    """The rows of a recipe as a data set: the directory is complete or absent."""

    name = "export"
    share = 0.5

    def order(self, site: Site, chance: Random, label: str) -> Order:
        return {"directory": f"exported {label}"}

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        directory = site.directory / order["directory"]
        if directory.exists():
            return
        with Lake.open(site.location) as lake:
            export_rows(lake, resolve_row_set(lake, recipe_id=recipe_id(recipe_of())), directory)

    def problems_between(self, site: Site, before: Contents, now: Contents, order: Order, told: int) -> list[str]:
        return [*differences(before, now), *self._torn(site, order)]

    def problems_at_end(self, site: Site, before: Contents, now: Contents, order: Order) -> list[str]:
        directory = site.directory / order["directory"]
        problems = [] if directory.exists() else [f"{directory} is not there"]
        return [*differences(before, now), *problems, *self._torn(site, order)]

    def _torn(self, site: Site, order: Order) -> list[str]:
        directory = site.directory / order["directory"]
        if not directory.exists():
            return []
        return [] if (directory / NOTE).exists() and list(directory.glob("data/*.parquet")) else [f"{directory}: torn"]


def documented_lines() -> tuple[list[str], list[str]]:
    """The lines of docs/operations.md that make a backup and that restore it."""
    section = OPERATIONS.read_text(encoding="utf-8").partition("## Backup and restore")[2].partition("\n## ")[0]
    make, restore = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return make.strip().splitlines(), restore.strip().splitlines()


def run_lines(lines: list[str], directory: Path) -> None:
    """Run lines of a shell block, by the interpreter of these tests."""
    (directory / "lake" / "students").mkdir(parents=True, exist_ok=True) if (directory / "lake").exists() else None
    script = "\n".join(re.sub(r"^python ", f"{sys.executable} ", line) for line in lines)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOGITLAKE_KILL")}
    done = subprocess.run(
        ["sh", "-ec", script], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
