"""`logitlake show lineage`: a student and its ancestors, each with what it saw, as a tree."""

from logitlake.flows.cli.lineage_tree import lineage_tree, print_tree
from logitlake.flows.terminal.output import Format, print_rows
from logitlake.storage.answers.listings import ancestry
from logitlake.storage.lake.lake import Lake
from logitlake.storage.students.promotions import decisions, named_student


def show_lineage(lake: Lake, name: str, form: Format) -> None:
    """A student by its id, the beginning of it, or an alias."""
    lineage = ancestry(lake, named_student(lake, name)["student_id"])
    if form is Format.TABLE:
        print_tree(lineage_tree(lineage.to_pylist(), decisions(lake)))
    else:
        print_rows(lineage, form)
