"""`logitlake show student`: parent, rows, and metrics before and after training."""

from typing import Any

from logitlake.flows.cli.screens.recipe import flat
from logitlake.flows.terminal.output import Format, print_record
from logitlake.flows.terminal.screen import print_screen
from logitlake.pipeline.settings.models import TrainingSettings
from logitlake.storage.answers.details import student_facts
from logitlake.storage.lake.lake import Lake
from logitlake.storage.students.registry import named_student

_MEASURED = ("before", "after", "teacher")


def show_student(lake: Lake, name: str, form: Format) -> None:
    """A student by its id, the beginning of it, or an alias."""
    student = named_student(lake, name)
    facts = student_facts(lake, student["student_id"])
    if form is Format.JSON:
        print_record({**student, **facts}, form)
        return
    sections = {
        "Student": {
            "id": student["student_id"],
            "aliases": ", ".join(facts["aliases"]) or None,
            "directory": student["directory"],
            "parent": student["parent_id"],
            "trained": student["created_at"],
            "run_id": student["run_id"],
            "children": ", ".join(child[:12] for child in facts["children"]) or None,
        },
        "Measured on held-out documents": measured(student["metrics"]),
        "Training": student["metrics"].get("train") or {},
        "Trained on": {**facts["row_set"], "recipe_ids": ", ".join(facts["row_set"].get("recipe_ids") or [])},
        "Decisions": facts["decisions"],
        "Lineage": [
            {name: row[name] for name in ("depth", "ancestor_id", "parent_id", "up_to_commit", "n_sequences")}
            for row in facts["lineage"]
        ],
        "Settings other than the defaults": _chosen(student["settings"]),
    }
    print_screen(sections, form)


def measured(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per measured model."""
    return [{"model": name, **metrics[name]} for name in _MEASURED if metrics.get(name)]


def _chosen(settings: dict[str, Any]) -> dict[str, Any]:
    """The training settings that differ from the defaults, and the student settings."""
    defaults = TrainingSettings().model_dump(mode="json")
    student = {name: value for name, value in settings.get("student", {}).items() if value not in (None, False)}
    training = {name: value for name, value in settings.get("training", {}).items() if value != defaults.get(name)}
    return flat({"student": student, "training": training})
