"""Operations of the storage alone: commits, decisions, forgetting, upkeep, rebuild."""

from collections import Counter
from datetime import timedelta
from random import Random

from logitlake.flows.maintain.run import MaintainRun
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import document_id, recipe_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.students.promotions import promote, reject, roll_back, student_of
from logitlake.storage.students.registry import register_student
from logitlake.storage.upkeep.compaction import compact, merge_small_tables, plan_compaction
from logitlake.storage.upkeep.forgetting import forget, forget_again, retire_recipe
from logitlake.storage.upkeep.sweeping import sweep
from logitlake.storage.writing.commits import commit_unit, documents_of, stored_rows
from logitlake.storage.writing.recipes import register_recipe
from logitlake.storage.writing.runs import note_run
from tests.crash.contents import OF_DOCUMENTS, Contents
from tests.crash.operation import Change, Operation, Order, StepwiseOperation, Tell
from tests.crash.rows import CORPUS, made_rows, made_sources, recipe_of
from tests.crash.site import Site

NONE: Contents = Counter()


class Commit(StepwiseOperation):
    """One or two work units, as a capture commits them."""

    name = "commit"
    share = 3.0
    temperature = 1.0

    def order(self, site: Site, chance: Random, label: str) -> Order:
        units = [[f"{label} {unit} {n}" for n in range(chance.randint(1, 4))] for unit in range(chance.randint(1, 2))]
        return {"units": units, "run_id": f"commit {label}"}

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        recipe = recipe_of(self.temperature)
        with Lake.open(site.location, read_only=False) as lake:
            note_run(lake, order["run_id"], "started", kind="capture", recipe_id=recipe_id(recipe))
            for number, names in enumerate(order["units"]):
                rows, sources = made_rows(names, recipe), made_sources(names)
                commit_unit(lake, rows, recipe=recipe, run_id=order["run_id"], seconds=1.0, sources=sources)
                tell(number + 1)

    def changes(self, before: Contents, order: Order) -> list[Change]:
        return [Change(unit_facts(names, self.temperature), NONE) for names in order["units"]]


def unit_facts(names: list[str], temperature: float) -> Contents:
    """The facts of one committed unit of made rows."""
    rows = stored_rows(made_rows(names, recipe_of(temperature)))
    facts: Contents = Counter()
    for row in rows.select(["doc_id", "recipe_id", "window_index", "unit_id", "row_hash"]).to_pylist():
        facts["sequence", *map(str, row.values())] += 1
    for row in documents_of(rows).to_pylist():
        keys = ("doc_id", "recipe_id", "unit_id", "n_tokens", "n_sequences")
        facts["document", *(str(row[key]) for key in keys)] += 1
        commit = ("commit", row["unit_id"], row["recipe_id"], str(len(names)))
    facts[commit] += 1
    for name in names:
        facts["source", document_id(name), CORPUS, name, ""] += 1
    return facts


class Forget(StepwiseOperation):
    """One to three documents of any recipe; their tombstones are committed with the removal of their rows."""

    name = "forget"

    def order(self, site: Site, chance: Random, label: str) -> Order:
        with Lake.open(site.location) as lake:
            held = lake.sql("SELECT DISTINCT doc_id FROM store.documents ORDER BY doc_id")["doc_id"].to_pylist()
        return {"doc_ids": chance.sample(held, min(len(held), chance.randint(1, 3)))}

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        with Lake.open(site.location, read_only=False) as lake:
            forget(lake, order["doc_ids"], reason="asked")
            tell(1)

    def changes(self, before: Contents, order: Order) -> list[Change]:
        doc_ids = set(order["doc_ids"])
        removed = {fact for fact in before if fact[0] in OF_DOCUMENTS and fact[1] in doc_ids}
        units = {fact[3] for fact in before - Counter(removed) if fact[0] == "document"}
        removed |= {fact for fact in before if fact[0] == "commit" and fact[1] not in units}
        added = {("forgotten", doc_id) for doc_id in doc_ids} - set(before)
        return [Change(Counter(added), Counter(removed))]


class Retire(Commit):
    """A recipe with its rows, and the sweep that removes its files."""

    name = "retire"
    share = 0.5
    temperature = 2.0
    prepares = True

    def order(self, site: Site, chance: Random, label: str) -> Order:
        order = super().order(site, chance, label)
        with Lake.open(site.location, read_only=False) as lake:
            register_recipe(lake, recipe_of(self.temperature))
        super().carry_out(site, order, lambda number: None)
        site.age(site.location)
        return order

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        with Lake.open(site.location, read_only=False) as lake:
            retire_recipe(lake, recipe_id(recipe_of(self.temperature)))
            tell(1)
            sweep(lake, grace=timedelta(0))

    def changes(self, before: Contents, order: Order) -> list[Change]:
        this = recipe_id(recipe_of(self.temperature))
        kinds = ("sequence", "document", "commit")
        return [Change(NONE, Counter(fact for fact in before if fact[0] in kinds and fact[2] == this))]


class Decide(StepwiseOperation):
    """A student is registered and promoted, another is registered and rejected, and the first is rolled back."""

    name = "students"
    share = 2.0
    alias = "made"

    def order(self, site: Site, chance: Random, label: str) -> Order:
        with Lake.open(site.location) as lake:
            before = student_of(lake, self.alias)
        how = chance.choice(("promote", "reject", "promote and roll back") if before else ("promote", "reject"))
        return {"before": before, "student_id": f"student {label}", "run_id": f"night {label}", "how": how}

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        student_id, how = order["student_id"], {"run_id": order["run_id"], "alias": self.alias}
        with Lake.open(site.location, read_only=False) as lake:
            register_student(
                lake,
                student_id=student_id,
                parent_id="teacher",
                row_set_id="rows",
                run_id=order["run_id"],
                directory="nowhere",
                settings={},
                metrics={},
            )
            tell(1)
            if order["how"] == "reject":
                reject(lake, student_id, figures={}, **how)
                tell(2)
                return
            decided = lake.sql("SELECT decision FROM promotions WHERE student_id = ?", [student_id])["decision"]
            if "promoted" not in decided.to_pylist():
                promote(lake, student_id, expected=order["before"], figures={}, **how)
            tell(2)
            if order["how"] == "promote and roll back":
                roll_back(lake, expected=student_id, **how)
                tell(3)

    def changes(self, before: Contents, order: Order) -> list[Change]:
        student_id, run_id = order["student_id"], order["run_id"]
        facts = [("student", student_id, "teacher", "rows")]
        if order["how"] == "reject":
            facts.append(("decision", self.alias, student_id, "rejected", run_id))
        else:
            facts.append(("decision", self.alias, student_id, "promoted", run_id))
        if order["how"] == "promote and roll back":
            facts.append(("decision", self.alias, order["before"], "rolled back", run_id))
        return [Change(Counter([fact]), NONE) for fact in facts]


class _Upkeep(Operation):
    """Changes files only. Everything is old enough to be removed."""

    def order(self, site: Site, chance: Random, label: str) -> Order:
        site.age(site.location)
        return {"target_bytes": chance.choice((5_000, 1 << 20))}


class Compact(_Upkeep):
    """Shards are merged."""

    name = "compact"

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        with Lake.open(site.location, read_only=False) as lake:
            for merge in plan_compaction(lake, target_bytes=order["target_bytes"]):
                assert compact(lake, merge) is not None


class MergeTables(_Upkeep):
    """The files of the small tables are merged."""

    name = "merge tables"

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        with Lake.open(site.location, read_only=False) as lake:
            merge_small_tables(lake)


class Sweep(_Upkeep):
    """Snapshots expire, and files that nothing names are removed."""

    name = "sweep"

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        with Lake.open(site.location, read_only=False) as lake:
            cut = cut_files(site.location)
            assert set(sweep(lake, grace=timedelta(0)).damaged_files) <= cut


class Maintain(_Upkeep):
    """The upkeep of a night as a whole: verify, merge, sweep."""

    name = "maintain"
    share = 0.7
    cleans_up_on_sigterm = True

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        maintenance = site.config.maintenance.model_copy(update={"target_bytes": order["target_bytes"]})
        with MaintainRun(site.config.model_copy(update={"maintenance": maintenance})) as run:
            run.verify()
            run.merge()
            run.sweep()


class Rebuild(Operation):
    """The catalog is lost and made again from the data path."""

    name = "rebuild"
    share = 0.8
    may_lack_catalog = True

    def order(self, site: Site, chance: Random, label: str) -> Order:
        site.lose_the_catalog(site.location)
        return {}

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        catalog = site.location.catalog_file
        assert catalog is not None
        if not catalog.exists():
            cut = cut_files(site.location)
            assert set(rebuild(site.location).damaged) <= cut
        tell(1)


def cut_files(location: LakeLocation) -> set[str]:
    """Files of a killed process that count as damaged: Parquet files without their end, and if a cut file may have held
    commits, the shards, because the commit of one of them may have been in it."""
    assert location.data_directory is not None
    files = {str(path): path for path in (location.data_directory / "store").rglob("*.parquet")}
    cut = {name for name, path in files.items() if not path.read_bytes().endswith(b"PAR1")}
    if any("/store/commits/" in name for name in cut):
        cut |= {name for name in files if "/store/sequences/" in name}
    return cut


def upkeep_and_rebuild(site: Site) -> None:
    """Two hours later: upkeep without any grace, then a rebuild from what it has left."""
    site.age(site.location)
    with Lake.open(site.location, read_only=False) as lake:
        forget_again(lake)
        for merge in plan_compaction(lake, target_bytes=1 << 30):
            assert compact(lake, merge) is not None
        merge_small_tables(lake)
        cut = cut_files(site.location)
        assert set(sweep(lake, grace=timedelta(0)).damaged_files) <= cut
    site.lose_the_catalog(site.location)
    assert rebuild(site.location).damaged == {}
