"""Operations with models: a capture by a tiny teacher, the training of a student, a whole night."""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.distill.run import DistillRun
from logitlake.flows.redistill.run import RedistillRun
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.students.identity import read_facts
from logitlake.storage.failpoints import reach
from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.students.candidates import undecided
from logitlake.storage.students.promotions import CURRENT, student_of
from tests.crash.contents import OF_DOCUMENTS, Contents, Fact, appeared, lost, torn_documents
from tests.crash.operation import Operation, Order, Tell
from tests.crash.site import Site
from tests.tiny_lake import append_documents, text_of


class Capture(Operation):
    """Some new documents by the tiny teacher, in units of few tokens."""

    name = "capture"
    share = 2.0
    cleans_up_on_sigterm = True

    def order(self, site: Site, chance: Random, label: str) -> Order:
        begin = len(site.corpus.read_bytes().splitlines())
        end = begin + chance.randint(2, 8)
        append_documents(site.corpus, begin, end)
        return {"doc_ids": [document_id(text_of(number)) for number in range(begin, end)]}

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        capture(site.config, tell)

    def problems_between(self, site: Site, before: Contents, now: Contents, order: Order, told: int) -> list[str]:
        problems = [*lost(before, now), *appeared(before, now, lambda fact: _is_of_capture(fact, order))]
        if len(_documents(now) - _documents(before)) < told:
            problems.append(f"{told} documents were told of, and {len(_documents(now) - _documents(before))} are there")
        return [*problems, *torn_documents(now)]

    def problems_at_end(self, site: Site, before: Contents, now: Contents, order: Order) -> list[str]:
        problems = self.problems_between(site, before, now, order, 0)
        if missing := set(order["doc_ids"]) - {fact[1] for fact in now if fact[0] == "document"}:
            problems.append(f"not captured: {' '.join(sorted(missing))}")
        return problems


class Train(Operation):
    """A student with checkpoints, its evaluation and its registration. Goes on from a checkpoint after a kill."""

    name = "train"
    share = 1.0
    cleans_up_on_sigterm = True

    def order(self, site: Site, chance: Random, label: str) -> Order:
        return {"output": f"student {label}", "seed": chance.randrange(1 << 30)}

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        train(self._config(site, order), tell=tell)

    def problems_between(self, site: Site, before: Contents, now: Contents, order: Order, told: int) -> list[str]:
        problems = [*lost(before, now), *appeared(before, now, lambda f: f[0] in ("event", "row set", "student"))]
        if told and not any(fact[0] == "student" for fact in now - before):
            problems.append("a student was told of and is not registered")
        output = site.directory / order["output"]
        if output.exists() and not _is_whole(output):
            problems.append(f"{output} is not complete")
        return problems

    def problems_at_end(self, site: Site, before: Contents, now: Contents, order: Order) -> list[str]:
        problems = self.problems_between(site, before, now, order, 1)
        output, reference = site.directory / order["output"], site.directory / f"{order['output']} at one go"
        config = self._config(site, {**order, "output": reference.name})
        with DistillRun(config) as run:
            run.train()
        if read_facts(output).get("student_id") != read_facts(reference).get("student_id"):
            problems.append(f"{output} is another student than the one that was trained at one go")
        elif not _same_weights(output, reference):
            problems.append(f"{output} has other weights than the student that was trained at one go")
        return problems

    def _config(self, site: Site, order: Order) -> Config:
        config = site.config
        changes = {"output": site.directory / order["output"], "seed": order["seed"]}
        return config.model_copy(update={"training": config.training.model_copy(update=changes)})


class Night(Capture):
    """New documents are captured, a candidate is trained from them, compared, and promoted or rejected."""

    name = "night"
    share = 0.3

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        config = site.config
        captured = capture(config, tell)
        with RedistillRun(config) as run:
            run.captured(captured)
            while (attempt := run.next()) is not None:
                run.decide(attempt, train(config, attempt.job))

    def problems_between(self, site: Site, before: Contents, now: Contents, order: Order, told: int) -> list[str]:
        kinds = ("row set", "student", "decision")
        known = super().problems_between(site, before, _without(now, before, kinds), order, told)
        return [*known, *(f"{path} is not complete" for path in _students(site) if not _is_whole(path))]

    def problems_at_end(self, site: Site, before: Contents, now: Contents, order: Order) -> list[str]:
        problems = super().problems_at_end(site, before, now, order)
        with Lake.open(site.location) as lake:
            current = student_of(lake)
            if left := undecided(lake, CURRENT, current):
                problems.append(f"nothing was decided about {left[0].student_id}")
        if current is None or not any(fact[:2] == ("student", current) for fact in now):
            problems.append(f"the alias points to {current}, which is not a registered student")
        return problems


def capture(config: Config, tell: Tell) -> Any:
    """What the teacher flow does; tells of the number of documents that are committed."""
    n_documents = 0
    with CaptureRun(config) as run:
        for number in run.units():
            n_documents += run.commit(run.compute(number)).n_documents
            tell(n_documents)
    return run.report


def train(config: Config, job: Any = None, tell: Tell = lambda number: None) -> Any:
    """What the student flow does; every step is a failpoint."""

    def at_step(progress: Any) -> None:
        if progress.loss is None:
            reach("student-training")

    with DistillRun(config, job, on_progress=at_step) as run:
        if not run.student_exists:
            run.train()
            run.evaluate()
            run.commit()
        tell(1)
    return run.report


def _is_of_capture(fact: Fact, order: Order) -> bool:
    if fact[0] in OF_DOCUMENTS:
        return fact[1] in order["doc_ids"]
    return fact[0] in ("event", "commit")


def _documents(contents: Contents) -> set[Fact]:
    return {fact for fact in contents if fact[0] == "document"}


def _without(now: Contents, before: Contents, kinds: tuple[str, ...]) -> Contents:
    """`now` less the new facts of these kinds."""
    return now - type(now)({fact: count for fact, count in (now - before).items() if fact[0] in kinds})


def _students(site: Site) -> list[Path]:
    directory = site.directory / "lake" / "students"
    return [path for path in directory.iterdir() if not path.name.startswith(".")] if directory.exists() else []


def _is_whole(directory: Path) -> bool:
    return bool(read_facts(directory)) and (directory / "model.safetensors").exists()


def _same_weights(first: Path, second: Path) -> bool:
    a, b = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return a.keys() == b.keys() and all(np.allclose(a[name], b[name], rtol=1e-5, atol=1e-6) for name in a)
