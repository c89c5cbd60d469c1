"""Where the kills take place: a directory with a lake, a corpus, and what operations put beside them."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from logitlake.flows.distill.run import DistillRun
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.progress import quiet_transformers
from logitlake.pipeline.settings.models import Config
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe
from tests.crash.rows import made_rows, made_sources, recipe_of
from tests.tiny_lake import append_documents, capture_all, tiny_settings
from tests.tiny_models import write_tiny_teacher

_DOCUMENTS = 16


@dataclass(frozen=True, slots=True)
class Site:
    """One directory. The teacher lies outside of it, so that its fingerprint is computed once."""

    directory: Path
    teacher: Path
    catalog: str | None = None

    @property
    def config(self) -> Config:
        """The settings of its lake, with a checkpoint at every second step of a training."""
        raw = tiny_settings(
            *(self.directory, self.teacher, self.corpus),
            output=str(self.directory / "student"),
            learning_rate=1e-3,
            save_steps=2,
        )
        raw["lake"]["catalog"] = self.catalog
        raw["maintenance"] = {"grace_hours": 0, "verify_sample": 1.0}
        return Config.model_validate(raw)

    @property
    def corpus(self) -> Path:
        return self.directory / "documents.jsonl"

    @property
    def location(self) -> LakeLocation:
        return location_of(self.config)

    def age(self, location: LakeLocation) -> None:
        """Make every file of a lake two hours old, so that upkeep without grace may remove it."""
        assert location.data_directory is not None
        two_hours_ago = time.time() - 7200
        for path in location.data_directory.rglob("*"):
            os.utime(path, (two_hours_ago, two_hours_ago))

    def lose_the_catalog(self, location: LakeLocation) -> None:
        assert location.state_directory is not None
        for file in location.state_directory.glob("catalog.sqlite*"):
            file.unlink()

    def copy_to(self, directory: Path) -> "Site":
        shutil.copytree(self.directory, directory)
        return Site(directory, self.teacher)


def make_site(directory: Path, *, with_models: bool = True, catalog: str | None = None) -> Site:
    """A lake with made rows, and with documents of a tiny teacher and a student; copied for each period of kills."""
    site = Site(directory / "site", directory / "teacher", catalog)
    site.directory.mkdir()
    if with_models:
        quiet_transformers()
        write_tiny_teacher(site.teacher)
        append_documents(site.corpus, 0, _DOCUMENTS)
        capture_all(site.config)
    recipe = recipe_of()
    with Lake.create(site.location, held_out_salt="s", held_out_share=0.0) as lake:
        register_recipe(lake, recipe)
        for unit in range(3):
            names = [f"first {unit} {number}" for number in range(3)]
            rows, sources = made_rows(names, recipe), made_sources(names)
            commit_unit(lake, rows, recipe=recipe, run_id="first", seconds=1.0, sources=sources)
    if with_models:
        with DistillRun(site.config) as run:
            run.train()
            run.evaluate()
            run.commit()
    return site
